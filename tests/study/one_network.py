"""A study of one small network, for tests."""

from configs import common, digits


def get_config(variant=""):
    shared = {
        "data": common.data("digits", "train", 256, order_seed=0),
        "training": common.training(2, batch_size=32, warmup_epochs=1.0, padding=1, flip=False),
        **digits.INK,
    }
    return common.study(
        "One network",
        networks=common.surrogates(
            ("SAM&IR",), (0,), "cifar_resnet18", {"width": 4, "blocks": (1,)}, **shared
        ),
        attacks=(),
        blocks=(("main", {"surrogates": ("SAM&IR",), "accuracy": common.data("digits", count=64)}),),
        views=(("accuracy", "accuracy", {"block": "main"}),),
        checkpoint_epochs=1,
    )
