"""What configs are written with: plain dicts and tuples for networks, data, training and blocks.

    transferjax study --config=configs/<file>.py[:variant] --store=<directory>

A study is networks and questions. `networks` holds (label, tags, spec): a label may stand for several
networks, a mechanism's seeds; a spec may be a tuple, an ensemble or the snapshots of one training. `blocks`
say which are attacked how and tried on which, `views` which tables and figures are drawn. Order is meant,
hence tuples.
"""

from ml_collections import ConfigDict

from configs.methods import method

CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# The S&P 2024 paper's attack on CIFAR-10: no random start, the noise rounded to 8 bits (every study rounds).
PGD = ("PGD", "pgd", {"steps": 20, "step_size": 2 / 255, "random_start": False})
TARGETED = ("targeted", {"aim": "next"})  # label + 1, as in the paper's official code
GOALS = ("untargeted", TARGETED)
REPORT = (
    ("transfer", "table", {"block": "main"}),
    ("why", "plane", {"block": "main"}),
    ("images", "images", {"block": "main"}),
)
ANALYSIS = (
    ("regression", "regression", {"block": "main"}),
    ("magnitudes", "curve", {"block": "main"}),
    ("matrix", "matrix", {"block": "main"}),
    ("spectrum", "spectrum", {"block": "main"}),
)


def study(title, *, networks, blocks, views=REPORT, attacks=(PGD,), **scalars):
    """A config; scalars are `batch_size` (of evaluation and attacks), `checkpoint_epochs`, `error`."""
    c = ConfigDict()
    c.title = title
    c.batch_size = 128
    c.checkpoint_epochs = 10
    c.error = "half_range"  # over seeds; or "std", "two_std"
    c.update(scalars)
    c.networks, c.attacks, c.blocks, c.views = networks, attacks, blocks, views
    return c


def call(name, **options):
    """A row of a registry with its options."""
    return {"name": name, "options": options}


def data(name, split="test", count=0, order_seed=None, **options):
    """Images by name: the first `count` (of a seeded order); 0 for all."""
    return {
        "name": name,
        "split": split,
        "count": count,
        "order_seed": order_seed,
        "options": options,
        "kind": "Data",
    }


def derived(name, network, source, seed=0, **options):
    """Data that a network makes of other data: robust, nonrobust, rand or det."""
    return {"kind": "Derived", "call": call(name, **options), "of": network, "data": source, "seed": seed}


def training(
    epochs=200.0,
    *,
    batch_size=128,
    peak=0.1,
    warmup_epochs=10.0,
    momentum=0.9,
    nesterov=False,
    weight_decay=5e-4,
    padding=4,
    flip=True,
    **more,
):
    """SGD on a warm-up and a cosine, with crops and flips; the paper's CIFAR-10 training by default."""
    augment = call("crop_flip", padding=padding, flip=flip) if padding or flip else None
    return {
        "epochs": float(epochs),
        "batch_size": batch_size,
        "schedule": call("warmup_cosine", peak=peak, warmup_epochs=warmup_epochs),
        "optimizer": call("sgd", momentum=momentum, nesterov=nesterov, weight_decay=weight_decay),
        "augment": augment,
        **more,
    }


def fast_training(epochs=10.0, *, peak=0.2, weight_decay=5e-4, **more):
    """CIFAR-10 in fewer epochs, by nothing that a mechanism studies: another schedule, every image both ways.

    A triangle instead of warm-up and cosine, Nesterov's momentum, crops of 2 pixels, flips that alternate.
    """
    found = training(epochs, nesterov=True, weight_decay=weight_decay, **more)
    return {
        **found,
        "schedule": call("triangular", peak=peak),
        "augment": call("crop_flip", padding=2, alternate=True),
    }


def network(model, options, *, data, training, mean, std, parts=(), seed=0, **more):
    """A trained network."""
    return {
        "kind": "Network",
        "model": call(model, **options),
        "data": data,
        "mean": mean,
        "std": std,
        "parts": parts,
        "training": training,
        "seed": seed,
        **more,
    }


def surrogates(mechanisms, seeds, model, options, *, dataset="cifar10", **common):
    """One network for each mechanism and seed; magnitudes τ ("IR_5") as `configs.methods` has them."""
    return tuple(
        (
            mechanism,
            {"mechanism": mechanism, "seed": seed},
            network(model, options, parts=method(mechanism, dataset), seed=seed, **common),
        )
        for mechanism in mechanisms
        for seed in seeds
    )


def targets(models, seed=100, **common):
    """One network for each name: (model, options)."""
    return tuple(
        (name, {}, network(model, options, seed=seed, **common)) for name, (model, options) in models.items()
    )


def tuned(start, parts, *, epochs, peak=0.05, **more):
    """Training that goes on from a network at a constant rate, with a mechanism's parts."""
    going_on = {**start["training"], "epochs": float(epochs), "schedule": call("constant", peak=peak)}
    return {**start, "parts": parts, "training": going_on, "start": start, **more}


def snapshots(start, mechanism="ST", *, epochs=10, per_epoch=4, peak=0.05, dataset="cifar10"):
    """LGV: training goes on from a network at a constant high rate, `per_epoch` weights an epoch are kept.

    `mechanism` is what collects (SGD is ST; SAM and SAM&JR widen the vicinity), whatever trained `start`.

    Reference: Gubri et al., "LGV", ECCV 2022, algorithm 1; Zhang et al., S&P 2024, Table 5.
    """
    again = tuned(start, method(mechanism, dataset), epochs=epochs, peak=peak)
    return tuple({**again, "epoch": (i + 1) / per_epoch} for i in range(round(epochs * per_epoch)))


def main_block(mechanisms, targets, *, data, eps_255, smoothness=None, similarity=None, **more):
    """Every surrogate on every target, untargeted and targeted, with what explains it."""
    measures = (
        ("smoothness", "smoothness", {}, smoothness or data),
        ("similarity", "similarity", {}, similarity or data),
    )
    block = {
        "surrogates": tuple(mechanisms),
        "targets": tuple(targets),
        "attacks": ("PGD",),
        "goals": GOALS,
        "eps_255": eps_255,
        "data": data,
        "measures": measures,
    }
    return ("main", {**block, **more})


def needed(blocks, views):
    """Of blocks by name those that views look at, as a config has them."""
    asked = set()
    for _, _, options in views:
        for part in (options, *(role for _, _, role in options.get("roles", ()))):
            asked |= {part.get(name) for name in ("block", "train", "validation")}
    return tuple((name, block) for name, block in blocks.items() if name in asked)


def variant(text, **defaults):
    """`:name,key=value` after a config's file: the defaults with what the text says.

    `variant("seeds=3", seeds=1)` is `{"seeds": 3}`; a name alone is a switch: `variant("b", b=False)`.

    Raises:
        ValueError: an unknown key, or a value that is none of its kind.
    """
    found = dict(defaults)
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if name not in defaults:
            raise ValueError(f"unknown variant {name!r}: use {', '.join(defaults)}")
        found[name] = _value(name, value, type(defaults[name])) if equals else _switched(name, defaults[name])
    if found.get("seeds", 1) < 1:
        raise ValueError(f"seeds={found['seeds']}: expected at least 1, how many trainings of each mechanism")
    return found


def _switched(name, default):
    if type(default) is not bool:
        raise ValueError(f"{name}: a value is missing, as in {name}={default or '…'}")
    return True


def _value(name, value, kind):
    """A variant's value as its default is: true or false, a number, a text."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    try:
        if kind is bool:
            return {"true": True, "false": False}[value.lower()]
        if not value:
            raise ValueError
        return kind(value)
    except (KeyError, ValueError):
        raise ValueError(f"{name}={value}: expected {words}") from None
