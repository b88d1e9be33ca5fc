"""Every mechanism against its magnitude on real CIFAR-10: what smooths, what flattens, what transfers.

    TFDS_DATA_DIR=<where CIFAR-10 is> transferjax study --config=configs/cifar10_magnitudes.py \
        --store=runs/store

The magnitudes are the first, the middle and the last of Table 11 (of augmentations the last,
of AT the fourth and the sixth). Small nets that see the training set once, one seed: enough for the order of
curvatures, not for the paper's transfer rates. Cost and results are in `docs/results/cifar10_magnitudes`.
"""

from configs import common

MAGNITUDES = {
    **dict.fromkeys(("MU", "CM", "CO", "LS"), (5,)),
    **dict.fromkeys(("IR", "JR", "ER", "SAM"), (1, 3, 5)),
    "AT": (4, 6),
}
SURROGATE = ("cifar_vgg11", {"width": 16, "blocks": (1, 1, 1, 1)})
TARGETS = {
    "ResNet": ("cifar_resnet18", {"width": 16, "blocks": (1, 1, 1)}),
    "VGG": SURROGATE,
    "DenseNet": ("cifar_densenet121", {"blocks": (2, 2, 2), "growth": 8}),
}


def get_config(variant=""):
    """ST, nine mechanisms at two or three magnitudes each, and SAM&IR; three targets."""
    seeds = range(common.variant(variant, seeds=1)["seeds"])
    rows = (f"{mechanism}_{tau}" for mechanism, taus in MAGNITUDES.items() for tau in taus)
    mechanisms = ("ST", *rows, "SAM&IR")
    shared = {
        "data": common.data("cifar10", "train"),
        "training": common.training(1, batch_size=64, warmup_epochs=0.2, nesterov=True, padding=2),
        **common.CIFAR10,
    }
    block, fields = common.main_block(
        mechanisms,
        TARGETS,
        eps_255=(4, 8),
        data=common.data("cifar10", count=300),
        accuracy=common.data("cifar10"),
        smoothness=common.data("cifar10", count=100),
        similarity=common.data("cifar10", count=1000),
    )
    curvature = ("weight_eigenvalue", "weight_eigenvalue", {}, common.data("cifar10", "train", count=250))
    return common.study(
        "CIFAR-10: mechanisms and magnitudes",
        networks=(
            *common.surrogates(mechanisms, seeds, *SURROGATE, **shared),
            *common.targets(TARGETS, **shared),
        ),
        blocks=((block, {**fields, "measures": (*fields["measures"], curvature)}),),
        views=(*common.REPORT, *common.ANALYSIS),
        checkpoint_epochs=1,
    )
