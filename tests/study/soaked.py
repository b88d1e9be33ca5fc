"""A study of some two hundred small groups, for `tests/soak.py`; `:nets=2` for one of a few."""

from configs import common, digits

MECHANISMS = ("ST", "SAM", "IR", "MU_1")
ATTACKS = (
    ("PGD", "pgd", {"steps": 4, "random_start": False}),
    ("MI", "mi_fgsm", {"steps": 4}),
    ("VMI", "vmi_fgsm", {"steps": 2, "neighbors": 2}),
)


def get_config(variant=""):
    seeds = range(common.variant(variant, nets=6)["nets"])
    shared = {
        "data": common.data("digits", "train", 128, order_seed=0),
        "training": common.training(6, batch_size=32, warmup_epochs=1.0, padding=1, flip=False),
        **digits.INK,
    }
    targets = {"VGG": ("cifar_vgg11", {"width": 4, "blocks": (1, 1)})}
    few = common.data("digits", count=16)
    name, block = common.main_block(MECHANISMS, targets, data=few, eps_255=(16, 32))
    return common.study(
        "Soaked",
        name="soaked",
        networks=(
            *common.surrogates(MECHANISMS, seeds, "cifar_resnet18", {"width": 4, "blocks": (1,)}, **shared),
            *common.targets(targets, **shared),
        ),
        attacks=ATTACKS,
        blocks=((name, {**block, "attacks": tuple(label for label, _, _ in ATTACKS)}),),
        views=common.REPORT[:2],
        batch_size=16,
        checkpoint_epochs=1,
    )
