"""A study of three small networks, for tests: `:attacks=2,peak=1e30,epoch=3`."""

from configs import common, digits

ATTACKS = (("PGD", "pgd", {"steps": 2, "random_start": False}), ("MI", "mi_fgsm", {"steps": 2}))


def get_config(variant=""):
    chosen = common.variant(variant, attacks=1, peak=0.05, epoch=0.0, eps=32.0)
    source = common.data("digits", "train", 128, order_seed=0)
    training = common.training(8, batch_size=32, warmup_epochs=1.0, padding=1, flip=False)
    shared = {"data": source, "training": training, **digits.INK}
    wild = {**training, "schedule": common.call("constant", peak=chosen["peak"])}
    small = ("cifar_resnet18", {"width": 4, "blocks": (1,)})
    images = common.data("digits", count=16)
    early = {"epoch": chosen["epoch"]} if chosen["epoch"] else {}
    block, fields = common.main_block(("ST", "wild"), ("VGG",), data=images, eps_255=(chosen["eps"],))
    attacks = ATTACKS[: chosen["attacks"]]
    return common.study(
        "Tiny",
        name="tiny",
        networks=(
            ("ST", {}, common.network(*small, **shared, **early)),
            ("wild", {}, common.network(*small, **{**shared, "training": wild}, seed=1)),
            *common.targets({"VGG": ("cifar_vgg11", {"width": 4, "blocks": (1, 1)})}, **shared),
        ),
        attacks=attacks,
        blocks=((block, {**fields, "attacks": tuple(name for name, _, _ in attacks)}),),
        views=common.REPORT[:2],
        checkpoint_epochs=2,
    )
