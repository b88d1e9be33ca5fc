"""The S&P 2024 paper: every table and figure is a view over the same networks.

    TFDS_DATA_DIR=<where the data are> transferjax study --config=configs/sp2024.py:<scale> \
        --store=runs/store [--dry_run] [--views=table2,table2_claims]

Scales are `cifar10`, `imagenette`, `cpu`, `imagenette_cpu` and `smoke`: see `configs.scales`.

Behind a scale, `,key=value` changes it, so that a run can be split and a scale be searched for, as in
`cpu,seeds=1,epochs=5,width=12,mechanisms=ST+SAM&IR,tables=table2+table12,count=500`. `seeds` is how many;
`seed=2` is that one alone; `width` is the surrogates'; `mechanisms` are all that is trained, but for what
`swept` names, magnitudes for figures and claims alone, such as AT_1+AT_7; the warm-up keeps its share of the
`epochs`. `--views=table2` makes what that table needs, and what is in the store already is not made again.

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

from configs import common, scales, sp2024_tables
from configs.methods import named

PAPER = ("IR[paper]", "JR[paper]", "MU_1[paper]", "MU_5[paper]", "CM_1[paper]", "CM_5[paper]")
OTHERS = {
    **{"AT_0.01": "AT_1", "AT_0.05": "AT_3", "AT": "AT"},
    **{"CM": "CM_5", "CO": "CO_5", "LS": "LS_5", "MU": "MU_5"},
}
"""How the targets of Tables 7 and 8 are trained; of augmentations the paper names no magnitude there."""


DEFAULTS = {
    "otherwise": "VGG16",  # the architecture of Tables 7 and 8's targets, which the paper does not name
    "smooth": 100,  # images for the smoothness, as in the official notebook
    "similar": 1000,
    "budgets": (4, 8, 16),
    "attack": {"steps": 20, "step_size": 2 / 255, "random_start": False},
    "autoattack": {},
    "collected": (10, 4),  # LGV: epochs and snapshots of each
    "main": sp2024_tables.TABLE_2 + PAPER + sp2024_tables.BEYOND,
    "swept": sp2024_tables.every_magnitude("cifar10"),
    "every_seed": ("AT_1", "AT_7", *sp2024_tables.MIDDLE),  # of those swept: what claims, Table 13 compare
    "others": OTHERS,
    "tables": sp2024_tables.ALL,
    "asked": (),  # tables that are made where a variant names them: they need more, or are another scale's
}


ELSEWHERE = {
    "table9": "configs/sp2024_vit.py",
    "table10": "configs/sp2024.py:imagenette,tables=table10",
}
"""Tables that no scale has by itself: what they need is somebody's own."""


def _imagenette(s):
    return s.but(
        **DEFAULTS
        | {
            "swept": sp2024_tables.every_magnitude("imagenette"),
            "similar": 500,
            "attack": {"steps": 50, "step_size": 2 / 255, "random_start": False},
            "tables": sp2024_tables.IMAGENETTE,
            "asked": ("table10",),
        }
    )


def _cpu():
    return scales.cpu().but(
        **DEFAULTS | {"autoattack": {"steps": 20, "queries": 200, "target_classes": 3}, "collected": (2, 5)}
    )


def _imagenette_cpu():
    return _imagenette(scales.imagenette_cpu()).but(
        otherwise="DenseNet121",
        similar=300,
        main=("ST", "IR", "SAM", "SAM&IR"),
        swept=(),
        tables=("table3", "table12"),
    )


def _smoke():
    return scales.smoke().but(
        **DEFAULTS
        | {
            "smooth": 16,
            "similar": 32,
            "budgets": (16, 32),
            "attack": {"steps": 2, "step_size": 16 / 255, "random_start": False},
            "autoattack": {"steps": 2, "queries": 2, "target_classes": 2},
            "collected": (1, 2),
            "main": ("ST", "MU_5", "SAM"),
            "swept": ("AT_1",),
            "others": {"MU": "MU_5"},
            "asked": ("table3", "smoothness"),
        }
    )


SCALES = {
    "cifar10": lambda: scales.cifar10().but(**DEFAULTS),
    "imagenette": lambda: _imagenette(scales.imagenette()),
    "cpu": _cpu,
    "imagenette_cpu": _imagenette_cpu,
    "smoke": _smoke,
}


def scale_of(variant):
    """The scale that a variant names, changed as it says, and its seeds.

    Raises:
        ValueError: no such scale, no such key, or tables that nothing of it can fill.
    """
    s, seeds, said = scales.chosen(SCALES, variant, mechanisms="", swept="", tables="")
    asked = scales.several(said["tables"], s.tables + s.asked, "tables", variant.partition(",")[0])
    s = s.but(tables=asked or s.tables)
    if said["mechanisms"]:
        s = s.but(main=named(said["mechanisms"]), swept=())
    if said["swept"]:
        s = s.but(swept=named(said["swept"]))
    lacking = sp2024_tables.lacking(s, seeds)
    said_why = "; ".join(f"{table} needs {what}" for table, what in lacking.items())
    if lacking and asked:
        raise ValueError(f"{said_why}: add it, or leave the table out")
    if lacking and (said["mechanisms"] or said["swept"]):
        print(f"left out: {said_why}")
    return s.but(tables=tuple(table for table in s.tables if table not in lacking)), seeds


def get_config(variant="cpu"):
    """Everything of one scale: networks, the blocks that ask, the views that answer."""
    s, seeds = scale_of(variant)
    return common.study(
        f"S&P 2024 on {s.where}",
        networks=sp2024_tables.networks(s, seeds),
        attacks=sp2024_tables.attacks(s),
        blocks=sp2024_tables.blocks(s),
        views=sp2024_tables.views(s),
        batch_size=s.batch_size,
        checkpoint_epochs=s.checkpoint_epochs,
    )
