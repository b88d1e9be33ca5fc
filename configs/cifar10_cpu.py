"""The S&P 2024 paper's question on real CIFAR-10, small enough for 2 CPU cores.

    TFDS_DATA_DIR=<where CIFAR-10 is> transferjax study --config=configs/cifar10_cpu.py \
        --store=runs/store

The nets are small and see the training set three times: enough for 70 % test accuracy, which is what makes
the mechanisms comparable, and far from the 94 % of the paper's ResNet-18. One seed; `:seeds=3` trains more.
Half an hour on two cores; results in `docs/results/cifar10_cpu`.
"""

from configs import common

MECHANISMS = ("ST", "SAM", "IR", "SAM&IR")
TARGETS = {
    "ResNet": ("cifar_resnet18", {"width": 16, "blocks": (1, 1, 1)}),
    "VGG": ("cifar_vgg11", {"width": 32, "blocks": (1, 1, 1)}),
    "DenseNet": ("cifar_densenet121", {"blocks": (2, 2, 2), "growth": 8}),
}


def get_config(variant=""):
    """ST, SAM, IR and SAM&IR surrogates, three targets of other architectures."""
    seeds = range(common.variant(variant, seeds=1)["seeds"])
    shared = {
        "data": common.data("cifar10", "train"),
        "training": common.training(3, batch_size=64, warmup_epochs=0.5, nesterov=True, padding=2),
        **common.CIFAR10,
    }
    # Few channels where the images are large: the most accuracy per second of the nets that were tried.
    surrogate = ("cifar_vgg11", {"width": 24, "blocks": (1, 1, 1, 1)})
    return common.study(
        "CIFAR-10 on two CPU cores",
        networks=(
            *common.surrogates(MECHANISMS, seeds, *surrogate, **shared),
            *common.targets(TARGETS, **shared),
        ),
        blocks=(
            common.main_block(
                MECHANISMS,
                TARGETS,
                eps_255=(4, 8, 16),
                data=common.data("cifar10", count=500),
                accuracy=common.data("cifar10"),
                smoothness=common.data("cifar10", count=100),
                similarity=common.data("cifar10", count=1000),
            ),
        ),
        checkpoint_epochs=1,
    )
