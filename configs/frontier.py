"""All attacks at equal cost: success at 10, 100 and 1000 gradients per image.

    TFDS_DATA_DIR=<where the data are> transferjax study --config=configs/frontier.py:<scale> \
        --store=runs/store [--dry_run]

| scale | surrogates | targets | images |
|---|---|---|---|
| `full` | ResNet-50s from files, plain and SAM&IR | nine, one trained adversarially | 1000, NIPS 2017 |
| `cifar10`, `imagenette` | the S&P study's ST and SAM&IR | its four, and two more | all, 500 |
| `cpu` | the S&P study's ST and SAM&IR | its four, a ResNet-18 and a ViT | 200 of CIFAR-10 |
| `smoke` | tiny | tiny | digits; for tests |

Every attack spends exactly what its label says, "PGN 100" a hundred gradients for each image: its samples
(or neighbours, or inner steps) first, and steps where it has none (`attacks.spent` counts, a test compares).
Besides the targets there are defences, the first target behind each, and the noise row. What needs a layer
is told the second stage's end.

| table | attacks | from |
|---|---|---|
| `attacks` | untargeted, 28 | both surrogates |
| `targeted` | towards the next class, what is made for that beside the best of the former | both surrogates |
| `ensembles` | of several surrogates; "Ens 40" takes ten gradients of each of four | four nets |
| `transformers` | what knows of tokens, beside what does not | the vision transformer of the targets |
| `choices` | an option chosen | the first surrogate |

`choices` is in the manner of S4ST (Liu et al., 2024): an option of an attack is chosen by its success on the
surrogate behind transformations, without any victim, and the table says what the choice is worth on targets.
S4ST itself asks for a targeted gain in probability behind twelve transformations, and searches four options.

Behind a scale, `,key=value` changes it: `cpu,count=50,gradients=10+100,attacks=PGD+PGN,tables=attacks`;
`seed=2` is that seed alone, `defences=JPEG+NRP` are those two.

`full` reads `weights/resnet50.sam_ir.safetensors`, which is nowhere offered.
Its targets are the seven others of TransferAttack's panel (VGG-16 with batch normalization), a deeper ResNet
and one trained adversarially; its defences are TransferAttack's and three more: `weights/NRP.pth`, the four
files of HGD (`transferjax.models.denoised`), `weights/256x256_diffusion_uncond.pt` of DiffPure: 150 passes of
half a billion parameters for each image of each row, most of the whole cost; `defences=` leaves it out.
`lpips=weights/alexnet.pth+weights/alex.pth` adds LPIPS (AlexNet) to SSIM and L2, from files of its package.
"""

from configs import attacked, common, scales
from configs.attacked import HALF

COSTS = (10, 100, 1000)
MECHANISMS = ("ST", "SAM&IR")
DEFENCES = ("JPEG", "Bit depth")


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
    "L2T": ("l2t", _by_cost({"steps": 5, "samples": 2}, {"samples": 10}, {"samples": 100})),
    "EMI": ("emi_fgsm", _by_cost({"steps": 5, "samples": 2}, {"samples": 10}, {"samples": 100})),
    "VMI": ("vmi_fgsm", _neighbors),
    "GRA": ("gra", _neighbors),
    "FGSRA": ("fgsra", _neighbors),
    "GNP": ("gnp", lambda cost: {"steps": cost // 2}),
    "PGN": ("pgn", _samples("neighbors", each=2)),
    "AWT": ("awt", _by_cost({"steps": 1, "neighbors": 3}, {"neighbors": 3}, {"neighbors": 48})),
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


def _fused(row, options):
    """An attack at the mean of several nets' logits."""
    return row, lambda cost: {**options(cost), "ensemble": common.call("fused_logits")}


TARGETED = {
    **{name: ATTACKS[name] for name in ("PGD", "MI", "DI", "SIA", "MEF", "TPA")},
    "Logit": ("logit", lambda cost: {"steps": cost}),
    "Logit-Margin": ("logit_margin", lambda cost: {"steps": cost}),
    "Po+Trip": ("po_trip", lambda cost: {"steps": cost}),
    "SU": ("self_universality", lambda cost: {"steps": cost // 2}),
    "S4ST": ("s4st", lambda cost: {"steps": cost}),
    "CFM": ("cfm", lambda cost: {"steps": cost}),
    "Everywhere": (
        "everywhere",
        _by_cost({"steps": 5, "samples": 1}, {"steps": 10, "samples": 9}, {"steps": 100, "samples": 9}),
    ),
}
ENSEMBLES = {
    "Losses": ATTACKS["MI"],
    **{"Ens" + f"-{name}" * (name != "MI"): _fused(*ATTACKS[name]) for name in ("MI", "DI", "SIA", "MEF")},
    "SVRE": ("svre", lambda cost: {"steps": cost // 5}),
    "CWA": ("cwa", lambda cost: {"steps": cost // 2}),
    "AdaEA": ("ada_ea", lambda cost: {"steps": cost // 2}),
    "SMER": ("smer", lambda cost: {"steps": cost // 2}),
}
"""At a cost for each net. Ens is MI by the mean of logits, Losses by that of losses; SVRE and SMER take twice
as many inner steps as there are nets (papers: four times)."""
TRANSFORMERS = {
    **{name: ATTACKS[name] for name in ("PGD", "MI", "DI", "SIA", "MEF")},
    "TGR": ("tgr", lambda cost: {"steps": cost}),
    "PNA": ("pna", lambda cost: {"steps": cost}),
    "ATT": ("att", lambda cost: {"steps": cost - 1}),
}
LAYERED = ("FIA", "BFA", "ILPD", "SU")
TWICE = ("SVRE", "SMER")
SWEPT = {
    "DI": ("prob", (0.1, 0.3, 0.5, 0.7, 0.9)),
    "TI": ("kernel_size", (1, 3, 5, 7)),
    "Admix": ("ratio", (0.1, 0.2, 0.4, 0.6)),
    "SSA": ("rho", (0.1, 0.3, 0.5, 0.7, 0.9)),
    "BSR": ("max_angle", (0.0, 12.0, 24.0, 48.0)),
    "PGN": ("zeta", (0.5, 1.0, 2.0, 3.0, 4.0)),
}
"""Name -> an option, and the values of which one is chosen without a victim, at 100 gradients."""
OWN = {
    "ST, resized": ("resize_and_pad", {"rate": 1.125, "resize_back": True}),
    "ST, moved": ("random_affine", {"samples": 1}),
    "ST, 3 bits": ("bit_depth", {}),
}
"""The views of the surrogate by which it is chosen."""
NAMED = {
    "attacks": ATTACKS,
    "targeted": TARGETED,
    "ensembles": ENSEMBLES,
    "transformers": TRANSFORMERS,
}
TABLES = (*NAMED, "choices")


def _needed(s):
    """Name -> what an attack must be told of a scale's nets."""
    patch, depth = s.tokens
    # the official layer, though what matters there is rounding: from the block before it succeeds as often
    att = {"layer": f"blocks.{max(depth - 2, 0)}", "patch": patch, "truncated": max(depth // 6, 1)}
    told = {name: {"layer": s.layer} for name in LAYERED}
    told |= {name: {"inner_steps": 2 * len(s.pool)} for name in TWICE}
    return told | {"PNA": {"patch": patch}, "ATT": att}


def attacks(s, table=ATTACKS, names=None, costs=COSTS, nets=1):
    """`(label, row, options)` of every attack of a table at every cost, for each of so many nets."""
    needed = _needed(s)
    return tuple(
        (f"{name} {cost * nets}", row, options(cost) | needed.get(name, {}))
        for name, (row, options) in ((name, table[name]) for name in (table if names is None else names))
        for cost in costs
    )


USUAL = {"swept": SWEPT, "attacks": (), "costs": COSTS, "defences": DEFENCES}
"""What every scale has unless it says something else; no attacks are all of a table."""


def _trained(s, more, **fields):
    """A scale of the S&P study, with more targets."""
    usual = {"nets": {}, "seeds": 1, "eps_255": 8, "tokens": (4, 6), "targets": {**s.targets, **more}}
    return s.but(**USUAL | usual | fields)


def _full():
    surrogates = {"ST": ("resnet50",), "SAM&IR": ("resnet50", ".sam_ir")}
    targets = {
        "VGG16": ("vgg16_bn",),
        "MobileNetV2": ("mobilenetv2_100",),
        "InceptionV3": ("inception_v3", "", 299, HALF),
        "ViT": ("vit_base_patch16_224", "", 224, HALF),
        "PiT": ("pit_b_224",),
        "Visformer": ("visformer_small",),
        "Swin": ("swin_tiny_patch4_window7_224",),
        "ResNet152": ("resnet152",),
        "AT": ("resnet50", ".l2_eps3"),
    }
    defences = (*DEFENCES, "R&P", "NIPS-R3", "FD", "RS", "NRP", "HGD", "DiffPure")
    pool, tokens = ("ST", "MobileNetV2", "InceptionV3", "ViT"), (21, 12)  # 16 of 224 pixels are 21 of 299
    fields = {"eps_255": 16, "defences": defences, "pool": pool, "tokens": tokens}
    return attacked.imagenet(surrogates, targets, count=1000, layer="layer2.3", **USUAL | fields)


def _cifar10():
    more = {"WideResNet28": ("cifar_wideresnet28_10", {}), "ViT": ("cifar_vit_small", {})}
    pool = ("ST", "DenseNet121", "WideResNet28", "ViT")
    return _trained(scales.cifar10(), more, layer="layer2.1", pool=pool)


def _imagenette():
    more = {"ViT": ("vit_base_patch16_224", {}), "Swin": ("swin_tiny_patch4_window7_224", {})}
    pool = ("ST", "DenseNet121", "MobileNetV2", "ViT")
    return _trained(scales.imagenette(), more, layer="layer2.3", pool=pool, tokens=(16, 12), eps_255=16)


def _cpu():
    more = {
        "ResNet18": ("cifar_resnet18", {"width": 16, "blocks": (1, 1, 1)}),
        "ViT": ("cifar_vit_small", {"depth": 3, "width": 96, "heads": 3, "hidden": 192}),
    }
    pool = ("ST", "DenseNet121", "ResNet18", "ViT")
    return _trained(scales.cpu(), more, layer="features.5", pool=pool, tokens=(4, 3), count=200)


def _smoke():
    more = {"ViT": ("cifar_vit_small", {"image_size": 8, "depth": 1, "width": 8, "heads": 2, "hidden": 8})}
    few = {"attacks": ("PGD", "SIA", "FIA", "CFM", "SVRE", "PNA"), "costs": (10,), "count": 32}
    few |= {"swept": {"DI": ("prob", (0.1, 0.9))}, "pool": ("ST", "ViT"), "tokens": (4, 1)}
    few |= {"defences": ("Bit depth",)}  # of digits there is no JPEG
    return _trained(scales.smoke(), more, layer="layer1.0", **few)


SCALES = {
    "full": _full,
    "cifar10": _cifar10,
    "imagenette": _imagenette,
    "cpu": _cpu,
    "smoke": _smoke,
}


def _networks(s, seeds):
    """Surrogates, targets and the first of them defended, the first surrogate's views, the ensemble."""
    if s.nets:
        found = tuple((label, {}, attacked.pretrained(*how)) for label, how in s.nets.items())
        surrogates, targets = found[: len(MECHANISMS)], found[len(MECHANISMS) :]
    else:
        model, options = s.surrogate
        surrogates = common.surrogates(MECHANISMS, seeds, model, options, **s.shared(model))
        targets = tuple((label, {}, s.target(label)) for label in s.targets)
    guarded = tuple((name, {}, attacked.defended(name, targets[0][2])) for name in s.defences)
    own = tuple((label, {}, attacked.around(call, surrogates[0][2])) for label, call in OWN.items())
    first = {label: spec for label, _, spec in reversed((*surrogates, *targets))}
    pool = (f"{len(s.pool)} nets", {}, tuple(first[label] for label in s.pool))
    return surrogates, (*targets, *guarded), own, pool


def _lpips(text):
    """The files of LPIPS that a variant names.

    Raises:
        ValueError: not two.
    """
    files = text.split("+")
    if len(files) != 2:
        raise ValueError(f"lpips={text}: expected two files, AlexNet's and the linear weights: a.pth+b.pth")
    return dict(zip(("backbone", "linear"), files, strict=True))


def swept(s):
    """The attacks of which an option is chosen, at each of its values."""
    found = {}
    for name, (option, values) in s.swept.items():
        row, options = ATTACKS[name]
        found |= attacked.swept(f"{name} {option}", row, option, values, options(s.costs[len(s.costs) // 2]))
    return tuple((label, row, options) for label, (row, options) in found.items())


def get_config(variant="cpu"):
    """Two surrogates, all attacks at all costs, targets and defences; options chosen without a victim."""
    s, seeds, said = scales.chosen(
        SCALES, variant, attacks="", gradients="", tables="", lpips="", defences=""
    )
    s = s.but(defences=scales.several(said["defences"], s.defences, "defences", "this scale") or s.defences)
    tables = scales.several(said["tables"], TABLES, "tables", "this config") or TABLES
    costs = scales.several(said["gradients"], [f"{cost}" for cost in COSTS], "gradients", "the table")
    offered = dict.fromkeys(name for table in NAMED.values() for name in table)
    chosen = scales.several(said["attacks"], offered, "attacks", "the table") or s.attacks or offered
    rows = {
        table: attacks(
            s,
            named,
            tuple(name for name in chosen if name in named),
            tuple(map(int, costs)) or s.costs,
            len(s.pool) if table == "ensembles" else 1,
        )
        for table, named in NAMED.items()
    } | {"choices": swept(s)}
    tables = tuple(table for table in tables if rows[table])
    if not tables:
        raise ValueError(f"attacks={said['attacks']}: not in tables={said['tables']}; ask for another table")
    surrogates, targets, own, pool = _networks(s, seeds)
    labels = {table: tuple(label for label, *_ in found) for table, found in rows.items()}
    victims, views_of_own = (tuple(label for label, *_ in nets) for nets in (targets, own))
    beside = lambda *nets: tuple(label for label in victims if label not in nets)  # noqa: E731
    goals = (common.TARGETED,)
    blocks = {
        "main": attacked.block(s, MECHANISMS, labels["attacks"], victims),
        "targeted": attacked.block(s, MECHANISMS, labels["targeted"], victims, goals=goals),
        "ensembles": attacked.block(s, (pool[0],), labels["ensembles"], beside(*s.pool)),
        "transformers": attacked.block(s, ("ViT",), labels["transformers"], beside("ViT")),
        "swept": attacked.block(s, MECHANISMS[:1], labels["choices"], victims, noise=False),
        "own": attacked.block(s, MECHANISMS[:1], labels["choices"], views_of_own, noise=False),
    }
    files = _lpips(said["lpips"]) if said["lpips"] else {}
    views = {
        "attacks": (("frontier", "frontier", {"block": "main", **files}),),
        **{name: ((name, "frontier", {"block": name, **files}),) for name in TABLES[1:-1]},
        "choices": (
            ("choices", "choices", {"block": "swept", "validation": "own"}),
            ("swept", "sweep", {"block": "swept"}),
        ),
    }
    asked = tuple(view for table in tables for view in views[table])
    return common.study(
        f"Attacks at equal cost on {s.where}",
        networks=(*surrogates, *targets, *own, pool),
        attacks=tuple({row[0]: row for table in tables for row in rows[table]}.values()),
        blocks=common.needed(blocks, asked),
        views=asked,
        batch_size=s.batch_size,
        checkpoint_epochs=s.checkpoint_epochs,
    )
