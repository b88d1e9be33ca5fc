"""Every mechanism against its magnitude on real CIFAR-10: what smooths, what flattens, what transfers.

    TFDS_DATA_DIR=<where CIFAR-10 is> python -m experiments.blueprint --config=configs/cifar10_magnitudes.py \
        --workdir=runs/cifar10_magnitudes
    python -m experiments.analyse --config=configs/cifar10_magnitudes.py --workdir=runs/cifar10_magnitudes

The magnitudes are the first, the middle and the last of Table 11 (of augmentations the last,
of AT the fourth and the sixth). Small nets that see the training set once, one seed: enough for the order of
curvatures, not for the paper's transfer rates. Cost and results are in `docs/results/cifar10_magnitudes`.
"""

from configs.blueprint import blueprint

MAGNITUDES = {
    **dict.fromkeys(("MU", "CM", "CO", "LS"), (5,)),
    **dict.fromkeys(("IR", "JR", "ER", "SAM"), (1, 3, 5)),
    "AT": (4, 6),
}


def get_config(variant=""):
    """ST, nine mechanisms at two or three magnitudes each, and SAM&IR; three targets."""
    if variant:
        raise ValueError(f"cifar10_magnitudes has no variants, got {variant!r}")
    rows = [f"{mechanism}_{tau}" for mechanism, taus in MAGNITUDES.items() for tau in taus]
    c = blueprint("ST", *rows, "SAM&IR")
    with c.unlocked():
        c.title = "CIFAR-10: mechanisms and magnitudes"
        c.seeds = (0,)
        c.surrogate = {"model": "cifar_vgg11", "options": {"width": 16, "blocks": (1, 1, 1, 1)}}
        c.targets.ResNet = {"model": "cifar_resnet18", "options": {"width": 16, "blocks": (1, 1, 1)}}
        c.targets.VGG = {"model": "cifar_vgg11", "options": {"width": 16, "blocks": (1, 1, 1, 1)}}
        c.targets.DenseNet = {"model": "cifar_densenet121", "options": {"blocks": (2, 2, 2), "growth": 8}}
        c.training.epochs = 1
        c.training.warmup_epochs = 0.2
        c.training.batch_size = 64
        c.training.nesterov = True
        c.training.augment = {"padding": 2, "flip": True}
        c.training.checkpoint_every = 1
        c.attack.images = 300
        c.attack.eps_255 = (4, 8)
        c.measure.sharpness_images = 250
    return c
