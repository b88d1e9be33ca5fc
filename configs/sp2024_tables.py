"""What the S&P 2024 paper's tables and figures ask of a scale: networks by label, blocks, views.

Labels are the paper's names, with τ behind a magnitude ("MU_1"); "A+LGV_B" are snapshots that B collects from
a network that A trained; "target X" is a target that X trained, all others ST. What a scale has is in
`configs.scales` and `sp2024.DEFAULTS`.
"""

from configs import common
from configs.methods import magnitudes, method, strength

ALL = (
    *("table2", "table4", "table5", "table6", "table7", "table8", "table11", "table12", "table13"),
    *("figure2", "figure3", "figures4to6", "figures7to10", "figure11", "hypothesis1", "theorem1", "claims"),
)
_CIFAR10 = ("table4", "table5", "table7", "table8")  # the paper has them of CIFAR-10 alone
IMAGENETTE = (
    *("table3" if name == "table2" else name for name in ALL if name not in _CIFAR10),
    "smoothness",  # the official notebook's
)
TABLE_2 = (
    *("ST", "MU_1", "MU_5", "CM_1", "CM_5", "CO_1", "CO_5", "LS_1", "LS_5"),
    *("AT", "IR", "JR", "ER", "SAM", "SAM&IR", "SAM&JR"),
)
SWEPT = ("MU", "CM", "CO", "LS", "AT", "IR", "JR", "ER", "SAM")  # the mechanisms of Table 11
BEYOND = ("MSAM",)  # not in the paper: ahead along the momentum, for the price of ST
AUGMENTED = ("MU", "CM", "CO", "LS", "AT")
STRONG = ("ST", "SAM", "SAM&JR")  # the surrogates of Tables 4 and 5
COLLECTORS = {"SGD": "ST", "SAM": "SAM", "SAM&JR": "SAM&JR"}
REGULARIZED = ("IR", "JR", "ER", "SAM", "SAM&IR", "SAM&JR")
TABLE_7 = ("ST", "CO_5", "CM_5", "MU_5", "LS_5", "AT", *REGULARIZED)
TABLE_10 = ("ST", "MU_5", "CM_5", "CO_5", "LS_5", "AT", "AT_7", *REGULARIZED)
PLATFORMS = ("AWS", "Baidu", "Aliyun")
MIDDLE = ("MU_3", "CM_3", "CO_3", "LS_3")  # Table 13 shows these besides Table 2's


def every_magnitude(dataset):
    """The rows of Table 11."""
    return tuple(label for name in SWEPT for label in magnitudes(name, dataset))


def lacking(s, seeds):
    """Those of a scale's tables that its mechanisms and seeds cannot fill -> what they need."""
    labels = s.main + s.swept
    magnitudes = ("a magnitude, such as IR_3", any("_" in label for label in labels))
    needs = {
        **dict.fromkeys(("table4", "table5", "table7", "hypothesis1"), ("ST", "ST" in labels)),
        "table8": _one_of(s, _table_8(s)),
        "table10": _one_of(s, TABLE_10),
        "table13": ("a mechanism of the code, without [paper]", any("[" not in label for label in labels)),
        "figure2": ("AT_1 … AT_7", any(label.startswith("AT_") for label in labels)),
        **dict.fromkeys(("figure3", "figures4to6", "figures7to10"), magnitudes),
        "figure11": ("two seeds", len(seeds) > 1),
    }
    return {table: needs[table][0] for table in s.tables if not needs.get(table, ("", True))[1]}


def _one_of(s, labels):
    return f"one of {', '.join(labels)}", bool(_present(s, labels))


def _table_8(s):
    return tuple(dict.fromkeys(("ST", *REGULARIZED, *s.others.values())))


def _present(s, labels):
    """Those labels that the scale trains, each once, in that order."""
    return tuple(dict.fromkeys(label for label in labels if label in s.main + s.swept))


def _listed(s):
    """Table 11's magnitudes, and those that Tables 2 and 3 show of them, whatever is trained."""
    return tuple(dict.fromkeys((*TABLE_2, *every_magnitude(s.dataset))))


def _explained(s):
    """The paper's surrogates, each once: "AT_2" is what Table 2 calls AT; no equations and nothing beyond."""
    found = {}
    for label in s.main + s.swept:
        if "[" not in label and label not in BEYOND:
            found.setdefault(repr(method(label, s.dataset)), label)
    return tuple(found.values())


def _collected(s):
    """Table 5's ensembles: label -> (what trained, what collects)."""
    return {
        f"{trained}+LGV_{name}": (trained, collector)
        for trained in _present(s, STRONG)
        for name, collector in COLLECTORS.items()
        if collector in s.main
    }


def _tags(s, label):
    power = strength(label, s.dataset)
    return {} if power is None else {"strength": float(power)}


def networks(s, seeds):
    """All networks of a scale; of swept magnitudes one seed, but for those in `s.every_seed`.

    Those that only Table 11 lists are named, and nothing makes them.
    """
    every = (*s.main, *s.swept, *(_listed(s) if "table11" in s.tables else ()))
    own = {label: seeds if label in s.main + s.every_seed else seeds[:1] for label in every}
    shared = s.shared(s.surrogate[0])
    surrogates = [
        (label, {**tags, **_tags(s, label)}, spec)
        for label, several in own.items()
        for _, tags, spec in common.surrogates((label,), several, *s.surrogate, **shared)
    ]
    trained = {(label, tags["seed"]): spec for label, tags, spec in surrogates}
    epochs, per_epoch = s.collected
    snapshots = [
        (
            label,
            {"mechanism": label, "seed": seed},
            common.snapshots(
                trained[start, seed], collector, epochs=epochs, per_epoch=per_epoch, dataset=s.dataset
            ),
        )
        for label, (start, collector) in _collected(s).items()
        for seed in seeds
        if "table5" in s.tables
    ]
    targets = [(label, {}, s.target(label)) for label in s.targets]
    others = [(f"target {label}", {}, s.target(s.otherwise, how)) for label, how in s.others.items()]
    if not {"table7", "table8"} & {*s.tables}:
        others = []
    return (*surrogates, *snapshots, *targets, *others, *(_services() if "table10" in s.tables else ()))


def _services():
    """Answers that were bought once, by `study.services.record_answers` with `predicts.platforms`."""
    records = {name: f"records/{name}.safetensors" for name in PLATFORMS}
    return [(name, {}, {"kind": "Service", "name": name, "record": file}) for name, file in records.items()]


def attacks(s):
    """By the paper's names; MI and DIM (MI with DI) with official values, LGV drawing with replacement."""
    steps = {name: s.attack[name] for name in ("steps", "step_size")}
    momentum = {**s.attack, "decay": 0.9}
    return (
        ("pgd", "pgd", s.attack),
        ("MI", "mi_fgsm", momentum),
        ("DIM", "dim", {**momentum, "prob": 0.7, "rate": (0.75, 1.5)}),
        ("LGV", "lgv", {**steps, "replace": True}),
        ("autoattack", "auto_attack", s.autoattack),
    )


def _attacked(s, surrogates, attack, targets, eps_255, goals=common.GOALS, **more):
    """A block of attacked images, on which every count is the scale's."""
    return {
        "surrogates": surrogates,
        "attacks": attack,
        "goals": goals,
        "eps_255": eps_255,
        "targets": targets,
        "data": s.images(s.count),
        "accuracy": s.test,
        **more,
    }


def blocks(s):
    """Every block that the scale's tables need."""
    why = {"smoothness": s.images(s.smooth), "similarity": s.images(s.similar)}
    everything = (*s.main, *(label for label in s.swept if label not in s.main))
    shared = {"eps_255": s.budgets, "data": s.images(s.count), "accuracy": s.test, **why}
    named = {"attacks": ("pgd",)}
    pairs = ("similarity", "similarity", {}, why["similarity"])
    others = tuple(f"target {label}" for label in s.others)
    few = s.budgets[:2]
    found = {
        "main": common.main_block(s.main, s.targets, **shared, **named)[1],
        "all": common.main_block(everything, s.targets, **shared, **named)[1],
        "explained": common.main_block(_explained(s), s.targets, **shared, **named)[1],
        "table4": _attacked(s, _present(s, STRONG), ("pgd", "MI", "DIM"), tuple(s.targets), few),
        "table5": _attacked(s, (*_present(s, STRONG), *_collected(s)), ("LGV",), tuple(s.targets), few),
        "table7": {
            "surrogates": _present(s, TABLE_7),
            "targets": (s.otherwise, *(label for label in others if "AT_" not in label)),
            "measures": (pairs,),
        },
        "table8": _attacked(
            s,
            _present(s, _table_8(s)),
            ("pgd",),
            tuple(label for label in others if label != "target AT"),
            s.budgets[1:2],
        ),
        "table13": _attacked(
            s,
            _present(s, (*(label for label in s.main if "[" not in label), *MIDDLE)),
            ("autoattack",),
            tuple(s.targets),
            s.budgets,
            ("untargeted",),
        ),
        "table10": _attacked(
            s, _present(s, TABLE_10), ("pgd",), PLATFORMS, s.budgets[1:], accuracy=s.images(s.count)
        ),
        "table11": {"surrogates": _listed(s)},
        "train": {"surrogates": s.main, "accuracy": s.clean or s.train},
        "hypothesis1": {
            "surrogates": ("ST", *(m for m in everything if m.split("_")[0] in AUGMENTED)),
            "targets": tuple(s.targets),
            "measures": (
                pairs,
                ("frechet", "augmentation_shift", {"statistic": "frechet"}, why["similarity"]),
                ("off_subspace", "augmentation_shift", {"statistic": "off_subspace"}, why["similarity"]),
            ),
        },
        "theorem1": _attacked(
            s, s.main, ("pgd",), tuple(s.targets), s.budgets[1:2], ("untargeted",), data=why["smoothness"]
        ),
    }
    return common.needed(found, views(s))


def views(s):
    """Those of the paper's tables and figures that the scale has."""
    first = "table3" if "table3" in s.tables else "table2"
    ours = {"dataset": s.dataset}
    paper = {
        name: {"block": name, "table": name, **ours}
        for name in ("table4", "table5", "table8", "table10", "table13")
    }
    found = {
        first: ("paper", {"block": "main", "table": first, **ours}),
        **{name: ("paper", options) for name, options in paper.items()},
        "table6": ("paper", {"block": "explained", "table": "table6", **ours}),
        "smoothness": ("paper", {"block": "all", "table": "smoothness_imagenette", **ours}),
        "table7": ("pairs", {"block": "table7", "table": "table7", **ours}),
        "table11": ("magnitudes", {"block": "table11", "shown": TABLE_2, "table": "table11", **ours}),
        "table12": ("clean", {"block": "main", "train": "train", "table": "table12", **ours}),
        "figure2": ("curve", {"block": "all", "mechanisms": ("AT",), "x": "strength"}),
        "figure3": ("curve", {"block": "all", "show": ("smoothness",), "x": "strength"}),
        "figures4to6": ("curve", {"block": "all", "show": ("similarity",), "x": "strength"}),
        "figures7to10": ("curve", {"block": "all", "show": ("transfer",), "x": "strength"}),
        "figure11": ("seeds", {"block": "main"}),
        "hypothesis1": ("pairs", {"block": "hypothesis1"}),
        "theorem1": ("bound", {"block": "theorem1"}),
        "claims": ("claims", {"block": "all", "paper": "sp2024", "roles": _roles(s)}),
    }
    return tuple((name, *found[name]) for name in s.tables)


def _roles(s):
    """Where the claims find their rows; Tables 2, 5 and 7 where the scale has them."""
    more = (("table2", "transfer", "main"), ("lgv", "transfer", "table5"), ("pairs", "pairs", "table7"))
    more = (role for role in more if {role[0], role[2]} & {*s.tables})
    roles = (("all", "transfer", "all"), ("explained", "transfer", "explained"), *more)
    return tuple((role, kind, {"block": block}) for role, kind, block in roles)
