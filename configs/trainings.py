"""Which surrogate training: every mechanism at equal cost, ranked by the transfer of three attacks.

    TFDS_DATA_DIR=<where the data are> transferjax study --config=configs/trainings.py:<scale> \
        --store=runs/store [--dry_run]

Every training costs as much as twice the scale's epochs of standard training: SAM, at two gradients a step,
has the scale's epochs, ST twice as many, adversarial training a fourth of the scale's (a test compares with
what plans reckon, another that with what the programs do). Warm-ups keep their share.
Mechanisms are those of the S&P paper's Tables 2 and 3, of Gubri et al. and what came since; "ST, WS" is ST
whose weights are scaled at random while it is attacked (SASD's second half, without its distillation).

Scales are `cifar10`, `imagenette`, `cpu` and `smoke`, with the targets of `configs/frontier.py`. Behind one,
`,key=value` changes it: `cpu,seeds=1,mechanisms=ST+SAM+IR,cost=4`; `cost` is in epochs of standard training.
"""

from configs import attacked, common, frontier, scales, sp2024
from configs.methods import method, named

TRAININGS = (
    *sp2024.TABLE_2,
    *("l-SAM", "ASAM", "GSAM", "AGSAM", "LookSAM", "MSAM", "GNP", "SWA", "EMA", "WASAM"),
)
ATTACKS = (("PGD", 10), ("MI", 10), ("SIA", 100))
"""An attack of the table at equal cost, and what it may spend."""
PRICES = {
    **dict.fromkeys(("sam", "asam", "gsam", "agsam", "gnp", "input_gradient", "jacobian"), 2.0),
    **{"er": 3.0, "score_matching": 3.0, "look_sam": 1.2, "esam": 11 / 6},
}


def _of(scale, main=TRAININGS):
    return lambda: frontier.SCALES[scale]().but(main=main)


SCALES = {
    **{name: _of(name) for name in ("cifar10", "imagenette", "cpu")},
    "smoke": _of("smoke", ("ST", "SAM", "IR")),
}


def price(mechanism, dataset="cifar10"):
    """What a step with a mechanism costs, in steps of standard training."""
    found = 1.0
    for part in method(mechanism, dataset):
        steps = part["options"].get("steps", 10)  # of adversarial training: a gradient for two thirds
        found *= 1 + steps * 2 / 3 if part["name"] == "adversarial" else PRICES.get(part["name"], 1.0)
    return found


def _surrogates(s, mechanisms, seeds, cost):
    model, options = s.surrogate
    for mechanism in mechanisms:
        epochs = cost / price(mechanism, s.dataset)
        shared = s.lasting(epochs).shared(model)
        for label, tags, spec in common.surrogates((mechanism,), seeds, model, options, **shared):
            yield label, {**tags, "epochs": epochs}, spec
            if mechanism == "ST":
                scaled = {"kind": "Apply", "call": common.call("weight_scaling"), "of": (spec,)}
                yield "ST, WS", {**tags, "mechanism": "ST, WS", "epochs": epochs}, scaled


def get_config(variant="cpu"):
    """Every mechanism for the same cost, three attacks, the targets of the table of attacks."""
    s, seeds, said = scales.chosen(SCALES, variant, mechanisms="", cost=0.0)
    mechanisms = named(said["mechanisms"]) if said["mechanisms"] else s.main
    cost = said["cost"] or 2 * s.training["epochs"]
    surrogates = tuple(_surrogates(s, mechanisms, seeds, cost))
    targets = tuple((label, {}, s.target(label)) for label in s.targets)
    chosen = tuple(row for name, spent in ATTACKS for row in frontier.attacks(s.layer, (name,), (spent,)))
    labels = [tuple(dict.fromkeys(label for label, *_ in rows)) for rows in (surrogates, chosen, targets)]
    few = s.images(min(s.count or 1000, 200))
    why = tuple((name, name, {}, few) for name in ("smoothness", "similarity"))
    return common.study(
        f"Trainings at equal cost on {s.where}",
        networks=(*surrogates, *targets),
        attacks=chosen,
        blocks=(("main", attacked.block(s, *labels, measures=why)),),
        views=(("ranking", "ranking", {"block": "main"}), ("why", "plane", {"block": "main"})),
        batch_size=s.batch_size,
        checkpoint_epochs=s.checkpoint_epochs,
    )
