"""All attacks at equal cost: success on real CIFAR-10 at 10, 100 and 1000 gradients per image.

    TFDS_DATA_DIR=<where CIFAR-10 is> transferjax study --config=configs/frontier.py \
        --store=runs/store [--dry_run]

Every attack spends exactly what its label says, "PGN 100" a hundred gradients for each image: its samples
(or neighbours, or inner steps) first, and steps where it has none (`attacks.spent` counts, a test compares).
Two surrogates, ST and SAM&IR, of one architecture; six targets of other families and two defences; the noise
row. What needs a layer is told the second stage's last block.

Variants, behind a colon and commas: `count=200` images, `gradients=100` one of the costs alone, `epochs=3`,
`attacks=PGD+PGN`; `smoke`, on digits and for tests.
"""

from configs import common
from configs.digits import INK

COSTS = (10, 100, 1000)
MECHANISMS = ("ST", "SAM&IR")
TARGETS = {
    "VGG": ("cifar_vgg11", {"width": 32, "blocks": (1, 1, 1)}),
    "DenseNet": ("cifar_densenet121", {"blocks": (2, 2, 2), "growth": 8}),
    "Inception": ("cifar_inceptionv3", {"width": 0.25}),
    "ResNet": ("cifar_resnet18", {"width": 16, "blocks": (1, 1, 1)}),
    "Bottleneck": ("cifar_resnet50", {"width": 8, "blocks": (1, 1, 1)}),
    "ViT": ("cifar_vit_small", {"depth": 3, "width": 96, "heads": 3, "hidden": 192}),
}
DEFENCES = {"JPEG": ("jpeg", {"quality": 75}), "Bit depth": ("bit_depth", {})}


def _samples(name, each=1, steps=10):
    """Options of an attack of `each` gradients for each sample; fewer steps where there are too few."""
    return lambda cost: {"steps": min(steps, cost // each), name: max(cost // (each * steps), 1)}


def _neighbors(cost):
    """One gradient at the image besides those of its neighbours."""
    return {"steps": 5, "neighbors": 1} if cost < 20 else {"steps": 10, "neighbors": cost // 10 - 1}


def _by_cost(*options):
    """What is said for each of `COSTS`."""
    return lambda cost: options[COSTS.index(cost)]


ATTACKS = {
    "PGD": ("pgd", lambda cost: {"steps": cost}),
    "MI": ("mi_fgsm", lambda cost: {"steps": cost}),
    "NI": ("ni_fgsm", lambda cost: {"steps": cost}),
    "DI": ("dim", lambda cost: {"steps": cost}),
    "TI": ("tim", lambda cost: {"steps": cost, "kernel_size": 5}),
    "SI": ("sim", _by_cost({"steps": 2}, {"steps": 20}, {"steps": 200})),
    "Admix": (
        "admix",
        _by_cost({"steps": 2, "samples": 1}, {"steps": 10, "samples": 2}, {"steps": 10, "samples": 20}),
    ),
    "SSA": ("ssa", _samples("samples")),
    "BSR": ("bsr", _samples("samples")),
    "SIA": ("sia", _samples("samples")),
    "ANDA": (
        "anda",
        _by_cost({"steps": 10, "side": 1}, {"steps": 25, "side": 2}, {"steps": 40, "side": 5}),
    ),
    "DeCoWA": ("decowa", _samples("samples", each=2)),
    "OPS": (
        "ops",
        _by_cost(
            {"steps": 5, "neighbors": 1, "samples": 1},
            {"neighbors": 3, "samples": 3},
            {"neighbors": 9, "samples": 11},
        ),
    ),
    "MuMoDIG": ("mumodig", _by_cost({"steps": 5, "samples": 1}, {"samples": 9}, {"samples": 99})),
    "EMI": ("emi_fgsm", _by_cost({"steps": 5, "samples": 2}, {"samples": 10}, {"samples": 100})),
    "VMI": ("vmi_fgsm", _neighbors),
    "GRA": ("gra", _neighbors),
    "FGSRA": ("fgsra", _neighbors),
    "GNP": ("gnp", lambda cost: {"steps": cost // 2}),
    "PGN": ("pgn", _samples("neighbors", each=2)),
    "MEF": ("mef", _samples("neighbors", steps=20)),
    "RAP": (
        "rap",
        _by_cost(
            {"steps": 5, "inner_steps": 1}, {"steps": 20, "inner_steps": 4}, {"steps": 125, "inner_steps": 7}
        ),
    ),
    "TPA": (
        "tpa",
        _by_cost({"steps": 2, "neighbors": 2}, {"steps": 20, "neighbors": 2}, {"steps": 40, "neighbors": 12}),
    ),
    "FIA": (
        "fia",
        _by_cost({"steps": 5, "samples": 5}, {"steps": 70, "samples": 30}, {"steps": 700, "samples": 300}),
    ),
    "BFA": (
        "bfa",
        _by_cost({"steps": 4, "samples": 3}, {"steps": 40, "samples": 30}, {"steps": 400, "samples": 300}),
    ),
    "ILPD": ("ilpd", lambda cost: {"steps": cost}),
}
"""Name -> the row, and its options at a cost."""
LAYERED = ("FIA", "BFA", "ILPD")


def attacks(names=tuple(ATTACKS), costs=COSTS, layer="layer2.0"):
    """`(label, row, options)` of every attack at every cost."""
    return tuple(
        (f"{name} {cost}", row, options(cost) | ({"layer": layer} if name in LAYERED else {}))
        for name, (row, options) in ((name, ATTACKS[name]) for name in names)
        for cost in costs
    )


def get_config(variant=""):
    """Two surrogates, all attacks at all costs, six targets and two defences."""
    chosen = common.variant(variant, count=500, gradients=0, epochs=3, attacks="", smoke=False)
    smoke, names = (
        chosen["smoke"],
        tuple(chosen["attacks"].split("+")) if chosen["attacks"] else tuple(ATTACKS),
    )
    costs = (chosen["gradients"],) if chosen["gradients"] else COSTS
    unknown = [name for name in names if name not in ATTACKS] + [c for c in costs if c not in COSTS]
    if unknown:
        raise ValueError(f"unknown {unknown}: expected attacks of {', '.join(ATTACKS)}, gradients of {COSTS}")
    targets, width, blocks = TARGETS, 24, (1, 1, 1, 1)
    source = {
        "data": common.data("cifar10", "train"),
        "training": common.training(
            chosen["epochs"], batch_size=64, warmup_epochs=0.5, nesterov=True, padding=2
        ),
        **common.CIFAR10,
    }
    images = common.data("cifar10", count=chosen["count"])
    if smoke:
        names, costs = ("PGD", "SIA", "FIA"), (10,)
        targets, width, blocks = {"VGG": ("cifar_vgg11", {"width": 4, "blocks": (1, 1)})}, 4, (1, 1)
        tiny = common.training(1, batch_size=32, warmup_epochs=0.5, padding=1, flip=False)
        source = {"data": common.data("digits", "train", 256, order_seed=0), "training": tiny, **INK}
        images = common.data("digits", count=32)
    found = common.targets(targets, **source)
    ((_, _, first), *_) = found
    guarded = tuple(
        (label, {}, {"kind": "Apply", "call": common.call(name, **options), "of": (first,)})
        for label, (name, options) in DEFENCES.items()
        if not (smoke and name == "jpeg")  # of grey images there are none
    )
    named = attacks(names, costs)
    block = {
        "surrogates": MECHANISMS,
        "targets": tuple(label for label, *_ in (*found, *guarded)),
        "attacks": tuple(label for label, *_ in named),
        "goals": ("untargeted",),
        "eps_255": (8,),
        "data": images,
        "noise": True,
    }
    return common.study(
        "Attacks at equal cost",
        networks=(
            *common.surrogates(
                MECHANISMS, (0,), "cifar_resnet18", {"width": width, "blocks": blocks}, **source
            ),
            *found,
            *guarded,
        ),
        attacks=named,
        blocks=(("main", block),),
        views=(("frontier", "frontier", {"block": "main"}), ("transfer", "table", {"block": "main"})),
        checkpoint_epochs=1,
    )
