"""The S&P 2024 paper: every table and figure is a view over the same networks.

    TFDS_DATA_DIR=<where the data are> python -m experiments.study --config=configs/sp2024.py:<scale> \
        --store=runs/store [--dry_run] [--views=table2,table2_claims]

| scale | surrogates | targets | data |
|---|---|---|---|
| `cifar10` | ResNet-18, 200 epochs | ResNet-50, VGG-16, Inception-V3, DenseNet-121 | all test images |
| `imagenette` | ResNet-50, 50 epochs | VGG-16, DenseNet-121, MobileNetV2, Xception; all from files | 500 |
| `cpu` | the same families as `cifar10`, narrow, few epochs | likewise | real CIFAR-10, 1000 |
| `imagenette_cpu` | a narrow ResNet-18 at 96 px | two narrow nets | ImageNette at 160 px, 300 |
| `smoke` | tiny | tiny | digits; for tests |

Behind a scale, `,key=value` changes it, so that a run can be split and a scale be searched for, as in
`cpu,seeds=1,epochs=5,width=12,mechanisms=ST+SAM&IR,tables=table2+table12,count=500`. `seeds` is how many;
`seed=2` is that one alone; `width` is the surrogates'; `mechanisms` are all that is trained; the warm-up
keeps its share of the `epochs`. `--views=table2` makes what that table needs, and what is in the store
already is not made again.

Hyper-parameters are those of the paper's official code (weight decay 1e-4, CIFAR-10's std .2471, .2435,
.2616, not the 5e-4 and .2023, .1994, .2010 of the other configs), magnitudes those of Table 11. Targets are
single trainings. What the paper leaves open is chosen here, and said where it is chosen.

Table 9 is `configs/sp2024_vit.py`. Table 10 is `imagenette,tables=table10`, from records of what services
said (`transferjax.predicts.platforms`, `transferjax.study.services`): `records/AWS.safetensors`, `Baidu`,
`Aliyun`.
`imagenette` starts from files of ImageNet weights: `python -m transferjax.models.weights.convert resnet50.pth
weights/resnet50.safetensors --model=resnet50`, and so on for `vgg16_bn`, `densenet121`, `mobilenetv2_100`,
`legacy_xception`.
"""

from configs import common, sp2024_tables
from configs.digits import INK
from configs.methods import magnitudes

CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2471, 0.2435, 0.2616)}
TABLE_2 = (
    *("ST", "MU_1", "MU_5", "CM_1", "CM_5", "CO_1", "CO_5", "LS_1", "LS_5"),
    *("AT", "IR", "JR", "ER", "SAM", "SAM&IR", "SAM&JR"),
)
PAPER = ("IR[paper]", "JR[paper]", "MU_1[paper]", "MU_5[paper]", "CM_1[paper]", "CM_5[paper]")
BEYOND = ("MSAM",)  # not in the paper: SAM along the momentum, for the price of ST
SWEPT = ("MU", "CM", "CO", "LS", "AT", "IR", "JR", "ER", "SAM")  # every magnitude of Table 11
OTHERS = {
    **{"AT_0.01": "AT_1", "AT_0.05": "AT_3", "AT": "AT"},
    **{"CM": "CM_5", "CO": "CO_5", "LS": "LS_5", "MU": "MU_5"},
}
"""How the targets of Tables 7 and 8 are trained; of augmentations the paper names no magnitude there."""


def _every_magnitude(dataset):
    return tuple(label for name in SWEPT for label in magnitudes(name, dataset))


DEFAULTS = {
    "dataset": "cifar10",  # whose magnitudes
    "otherwise": "VGG16",  # the architecture of Tables 7 and 8's targets, which the paper does not name
    "clean": None,  # the training images as they are tested; None for those of training
    "weights": False,  # begin with files of weights
    "seeds": 3,
    "count": 0,  # attacked images; 0 for all
    "smooth": 100,  # images for the smoothness, as in the official notebook
    "similar": 1000,
    "budgets": (4, 8, 16),
    "attack": {"steps": 20, "step_size": 2 / 255, "random_start": False},
    "autoattack": {},
    "collected": (10, 4),  # LGV: epochs and snapshots of each
    "main": TABLE_2 + PAPER + BEYOND,
    "swept": _every_magnitude("cifar10"),
    "every_seed": ("AT_1", "AT_7"),  # of those swept, what claims compare
    "others": OTHERS,
    "batch_size": 128,
    "checkpoint_epochs": 10,
    "tables": sp2024_tables.ALL,
    "asked": (),  # tables that need more than networks, and are made where a variant names them
}


class Scale:
    """What a variant changes: `DEFAULTS` and what it says of title, data, training, surrogate, targets, …"""

    def __init__(self, title, **fields):
        for name, value in {**DEFAULTS, "title": title, **fields}.items():
            setattr(self, name, value)

    def but(self, **changes):
        """The scale with other fields."""
        return Scale(**{**vars(self), **changes})

    def shared(self, model):
        """What all trainings of an architecture have in common."""
        start = {"start": _file(model)} if self.weights else {}
        return {"data": self.train, "training": self.training, "dataset": self.dataset, **self.stats, **start}

    def target(self, label, mechanism="ST"):
        """One training of the target's architecture; seed 100, so that it is none of the surrogates'."""
        model, options = self.targets[label]
        return common.surrogates((mechanism,), (100,), model, options, **self.shared(model))[0][2]


def _file(model):
    return {"kind": "Pretrained", "model": common.call(model), "file": f"weights/{model}.safetensors"}


def _cifar10():
    return Scale(
        "S&P 2024 on CIFAR-10",
        train=common.data("cifar10", "train"),
        test=common.data("cifar10"),
        training=common.training(weight_decay=1e-4),
        stats=CIFAR10,
        surrogate=("cifar_resnet18", {}),
        targets={
            "ResNet50": ("cifar_resnet50", {}),
            "VGG16": ("cifar_vgg16", {}),
            "InceptionV3": ("cifar_inceptionv3", {}),
            "DenseNet121": ("cifar_densenet121", {}),
        },
    )


def _cpu():
    """Narrow nets of the same five families; scale and cost are to be measured, see the variant's options."""
    return _cifar10().but(
        title="S&P 2024 on real CIFAR-10, two CPU cores",
        training=common.training(
            6, batch_size=64, warmup_epochs=1.0, nesterov=True, weight_decay=1e-4, padding=2
        ),
        surrogate=("cifar_resnet18", {"width": 16, "blocks": (1, 1, 1)}),
        targets={
            "ResNet50": ("cifar_resnet50", {"width": 8, "blocks": (1, 2, 2)}),
            "VGG16": ("cifar_vgg16", {"width": 24, "blocks": (1, 1, 2, 2)}),
            "InceptionV3": ("cifar_inceptionv3", {"width": 0.125, "blocks": (1, 1, 1)}),
            "DenseNet121": ("cifar_densenet121", {"blocks": (2, 4, 4), "growth": 10}),
        },
        count=1000,
        autoattack={"steps": 20, "queries": 200, "target_classes": 3},
        collected=(2, 5),
        checkpoint_epochs=1,
    )


def _imagenette():
    names = ("vgg16_bn", "densenet121", "mobilenetv2_100", "legacy_xception")
    source = "imagenette/320px-v2"
    return Scale(
        "S&P 2024 on ImageNette",
        dataset="imagenette",
        train=common.data(source, "train", size=224, scale=(0.08, 1.0)),
        clean=common.data(source, "train", size=224),
        swept=_every_magnitude("imagenette"),
        test=common.data(source, size=224),
        training=common.training(50, peak=1.0, warmup_epochs=5, weight_decay=1e-4, padding=0, flip=False),
        stats=common.IMAGENET,
        surrogate=("resnet50", {}),
        targets={
            label: (name, {})
            for label, name in zip(("VGG16", "DenseNet121", "MobileNetV2", "Xception"), names, strict=True)
        },
        weights=True,
        count=500,
        similar=500,
        attack={"steps": 50, "step_size": 2 / 255, "random_start": False},
        batch_size=50,
        tables=sp2024_tables.IMAGENETTE,
        asked=("table10",),
    )


def _imagenette_cpu():
    source = "imagenette/160px-v2"
    return _imagenette().but(
        title="S&P 2024 on ImageNette at 96 px, two CPU cores",
        train=common.data(source, "train", size=96, scale=(0.35, 1.0)),
        clean=common.data(source, "train", size=96),
        test=common.data(source, size=96),
        training=common.training(
            12,
            batch_size=64,
            peak=0.05,
            warmup_epochs=1.0,
            nesterov=True,
            weight_decay=1e-4,
            padding=0,
            flip=False,
        ),
        surrogate=("resnet18", {"width": 24}),
        targets={
            "DenseNet121": ("densenet121", {"blocks": (2, 4, 4, 2), "growth": 12}),
            "VGG16": ("cifar_vgg16", {"width": 16, "blocks": (1, 1, 1, 2, 2)}),
        },
        otherwise="DenseNet121",
        weights=False,
        seeds=1,
        count=300,
        similar=300,
        main=("ST", "IR", "SAM", "SAM&IR"),
        swept=(),
        checkpoint_epochs=1,
        tables=("table3", "table12"),
    )


def _smoke():
    small = {"width": 4, "blocks": (1,)}
    return Scale(
        "S&P 2024, a smoke test on digits",
        train=common.data("digits", "train", 256, order_seed=0),
        test=common.data("digits", count=48),
        training=common.training(
            2, batch_size=32, warmup_epochs=1.0, padding=1, flip=False, weight_decay=1e-4
        ),
        stats=INK,
        surrogate=("cifar_resnet18", small),
        targets={"VGG16": ("cifar_vgg16", {"width": 4, "blocks": (1, 1)})},
        seeds=2,
        count=32,
        smooth=16,
        similar=32,
        budgets=(16, 32),
        attack={"steps": 2, "step_size": 16 / 255, "random_start": False},
        autoattack={"steps": 2, "queries": 2, "target_classes": 2},
        collected=(1, 2),
        main=("ST", "MU_5", "SAM"),
        swept=("AT_1",),
        others={"MU": "MU_5"},
        checkpoint_epochs=1,
    )


SCALES = {
    "cifar10": _cifar10,
    "imagenette": _imagenette,
    "cpu": _cpu,
    "imagenette_cpu": _imagenette_cpu,
    "smoke": _smoke,
}


def _lasting(training, epochs):
    """A training of so many epochs; the warm-up keeps its share."""
    schedule = training["schedule"]
    warmup = schedule["options"]["warmup_epochs"] * epochs / training["epochs"]
    options = {**schedule["options"], "warmup_epochs": warmup}
    return {**training, "epochs": epochs, "schedule": {**schedule, "options": options}}


def scale_of(variant):
    """The scale that a variant names, changed as it says, and its seeds.

    Raises:
        ValueError: no such scale, or no such key.
    """
    name, _, rest = variant.partition(",")
    if name not in SCALES:
        raise ValueError(f"unknown variant {variant!r}: begin with {', '.join(SCALES)}")
    s = SCALES[name]()
    said = {"seeds": s.seeds, "seed": -1, "count": s.count, "epochs": 0.0, "width": 0}
    said = common.variant(rest, **said, mechanisms="", tables="")
    several = {key: tuple(said[key].split("+")) for key in ("mechanisms", "tables") if said[key]}
    offered = s.tables + s.asked
    if unknown := set(several.get("tables", ())) - set(offered):
        raise ValueError(f"tables={'+'.join(sorted(unknown))}: {name} has {', '.join(offered)}")
    s = s.but(count=said["count"], tables=several.get("tables", s.tables))
    if said["width"]:
        model, options = s.surrogate
        s = s.but(surrogate=(model, {**options, "width": said["width"]}))
    if said["epochs"]:
        s = s.but(training=_lasting(s.training, said["epochs"]))
    if "mechanisms" in several:
        s = s.but(main=several["mechanisms"], swept=())
    seeds = (said["seed"],) if said["seed"] >= 0 else tuple(range(said["seeds"]))
    return s.but(tables=sp2024_tables.possible(s, seeds)), seeds


def get_config(variant="cpu"):
    """Everything of one scale: networks, the blocks that ask, the views that answer."""
    s, seeds = scale_of(variant)
    return common.study(
        s.title,
        networks=sp2024_tables.networks(s, seeds),
        attacks=sp2024_tables.attacks(s),
        blocks=sp2024_tables.blocks(s),
        views=sp2024_tables.views(s),
        batch_size=s.batch_size,
        checkpoint_epochs=s.checkpoint_epochs,
    )
