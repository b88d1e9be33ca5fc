"""The quickstart: the whole path on scikit-learn's handwritten digits, no download.

    transferjax study --config=configs/digits.py --store=runs/store

Cost: about a minute and a half on 2 CPU cores, half of it compilation. Variants, behind a colon and commas:
`seeds=40,first=10` are seeds 10 to 49 instead of two, `mechanisms=ST+l-SAM` other surrogates (what many seeds
spread by is published, see `experiments/intervals.py`); `smoke` is a run for tests.
"""

from configs import common
from configs.methods import named

INK = {"mean": (0.31,), "std": (0.38,)}
TARGETS = {
    "ResNet": ("cifar_resnet18", {"width": 12, "blocks": (1, 1)}),
    "VGG": ("cifar_vgg11", {"width": 8, "blocks": (1, 1, 2)}),
    "DenseNet": ("cifar_densenet121", {"blocks": (2, 2), "growth": 6}),
}


def get_config(variant=""):
    """ST, SAM, IR and SAM&IR surrogates in some seeds, three targets of other architectures."""
    given = common.variant(variant, smoke=False, seeds=2, first=0, mechanisms="ST+SAM+IR+SAM&IR")
    smoke, seeds = given["smoke"], range(given["first"], given["first"] + given["seeds"])
    mechanisms, targets = named(given["mechanisms"]), TARGETS
    epochs, width, blocks, train, test, eps_255 = 8, 8, (1, 1, 1), 0, 0, (16, 32, 48)
    if smoke:
        mechanisms, seeds = ("ST", "SAM&IR"), range(1)
        targets = {"VGG": ("cifar_vgg11", {"width": 4, "blocks": (1, 1)})}
        epochs, width, blocks, train, test, eps_255 = 2, 4, (1,), 256, 64, (32,)
    images = common.data("digits", count=test)
    shared = {
        "data": common.data("digits", "train", train, order_seed=0 if train else None),
        "training": common.training(epochs, batch_size=32, warmup_epochs=1.0, padding=1, flip=False),
        **INK,
    }
    return common.study(
        "Quickstart: transferability on handwritten digits",
        networks=(
            *common.surrogates(
                mechanisms, seeds, "cifar_resnet18", {"width": width, "blocks": blocks}, **shared
            ),
            *common.targets(targets, **shared),
        ),
        # Black ink on white paper takes larger budgets than photographs; steps of 2.5 eps / steps.
        attacks=(("PGD", "pgd", {"steps": 10, "random_start": False}),),
        blocks=(
            common.main_block(
                mechanisms,
                targets,
                data=images,
                eps_255=eps_255,
                smoothness=common.data("digits", count=16 if smoke else 100),
                similarity=common.data("digits", count=16 if smoke else 0),
            ),
        ),
        checkpoint_epochs=1 if smoke else 4,
    )
