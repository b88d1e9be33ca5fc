"""The blueprint on real CIFAR-10, small enough for 2 CPU cores.

    TFDS_DATA_DIR=<where CIFAR-10 is> python -m experiments.blueprint --config=configs/cifar10_cpu.py \
        --workdir=runs/cifar10_cpu

The nets are small and see the training set three times: enough for 70 % test accuracy, which is what makes
the mechanisms comparable, and far from the 94 % of the paper's ResNet-18. One seed; add others with
`--config.seeds='(0, 1, 2)'` and a --workdir of their own.
"""

from configs.blueprint import blueprint


def get_config(variant=""):
    """ST, SAM, IR and SAM&IR surrogates, three targets of other architectures."""
    if variant:
        raise ValueError(f"cifar10_cpu has no variants, got {variant!r}")
    c = blueprint("ST", "SAM", "IR", "SAM&IR")
    with c.unlocked():
        c.title = "CIFAR-10 on two CPU cores"
        c.seeds = (0,)
        # Few channels where the images are large: the most accuracy per second of the nets that were tried.
        c.surrogate = {"model": "cifar_vgg11", "options": {"width": 24, "blocks": (1, 1, 1, 1)}}
        c.targets.ResNet = {"model": "cifar_resnet18", "options": {"width": 16, "blocks": (1, 1, 1)}}
        c.targets.VGG = {"model": "cifar_vgg11", "options": {"width": 32, "blocks": (1, 1, 1)}}
        c.targets.DenseNet = {"model": "cifar_densenet121", "options": {"blocks": (2, 2, 2), "growth": 8}}
        c.training.epochs = 3
        c.training.warmup_epochs = 0.5
        c.training.batch_size = 64
        c.training.nesterov = True
        c.training.augment = {"padding": 2, "flip": True}
        c.training.checkpoint_every = 1
        c.attack.images = 500
    return c
