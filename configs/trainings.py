"""Which surrogate training: every mechanism at equal cost, ranked by the transfer of three attacks.

    TFDS_DATA_DIR=<where the data are> transferjax study --config=configs/trainings.py:<scale> \
        --store=runs/store [--dry_run]

Every training costs as much as twice the scale's epochs of standard training: SAM, at two gradients a step,
has the scale's epochs, ST twice as many, adversarial training a fourth of the scale's (a test compares with
what plans reckon, another that with what the programs do). Warm-ups keep their share.
Mechanisms are those of the S&P paper's Tables 2 and 3, of Gubri et al. and what came since. Some go on from a
network, whose training is in their cost, at a constant rate of 0.05 (`TUNED`):

| | first | then |
|---|---|---|
| DRA | ST for a half of the cost | DCG, score matching |
| SASD | ST for a half | SAM for a fourth: the teacher; from ST again its distillation by SAM, a fourth |
| MoreBayesian | ST for a half | its gradient norm penalty, weights kept: the mean of 20 draws (SWAG) |

The 20 draws are the same in all steps, and each gradient through their mean is one through every draw: an
attack on MoreBayesian costs 20 times what its label says. (The official code draws anew in every step, and
takes the gradient of one.) "ST, WS" and "SASD, WS" are attacked with their weights scaled (by 0.93).

Scales are `cifar10`, `imagenette`, `cpu` and `smoke`, with the targets of `configs/frontier.py`. Behind one,
`,key=value` changes it: `cpu,seeds=1,mechanisms=ST+SAM+IR,targets=VGG16+ViT,cost=4`; `cost` is in epochs of
standard training.
"""

from configs import attacked, common, frontier, scales
from configs.methods import method, named
from configs.sp2024_tables import TABLE_2

TRAININGS = (
    *TABLE_2,
    *("l-SAM", "ASAM", "GSAM", "AGSAM", "LookSAM", "MSAM", "ESAM", "GNP", "SWA", "EMA", "WASAM"),
)
SCALED = ("ST", "SASD")
"""What is attacked with scaled weights besides."""
ATTACKS = (("PGD", 10), ("MI", 10), ("MEF", 100))
"""An attack of the table at equal cost, and what it may spend; MEF is first there at a hundred gradients."""
PRICES = {
    **dict.fromkeys(("sam", "asam", "gsam", "agsam", "gnp", "input_gradient", "jacobian"), 2.0),
    **{"er": 3.0, "score_matching": 3.0, "look_sam": 1.2, "esam": 11 / 6, "distilled": 4 / 3},
}


def price(mechanism, dataset="cifar10"):
    """What a step with a mechanism costs, in steps of standard training."""
    found = 1.0
    for part in method(mechanism, dataset):
        steps = part["options"].get("steps", 10)  # of adversarial training: a gradient for two thirds
        found *= 1 + steps * 2 / 3 if part["name"] == "adversarial" else PRICES.get(part["name"], 1.0)
    return found


def _network(s, mechanism, seed, cost):
    """A network that costs as much as so many epochs of standard training."""
    model, options = s.surrogate
    shared = s.lasting(cost / price(mechanism, s.dataset)).shared(model)
    return common.surrogates((mechanism,), (seed,), model, options, **shared)[0][2]


def _dra(s, seed, cost):
    parts, price = method("DCG", s.dataset), PRICES["score_matching"]
    return common.tuned(_network(s, "ST", seed, cost / 2), parts, epochs=cost / 2 / price)


def _sasd(s, seed, cost):
    start, sam = _network(s, "ST", seed, cost / 2), method("SAM", s.dataset)
    teacher = common.tuned(start, sam, epochs=cost / 4 / PRICES["sam"])
    student = ({"name": "distilled", "options": {}}, *sam)
    epochs = cost / 4 / (PRICES["sam"] * PRICES["distilled"])
    return common.tuned(start, student, epochs=epochs, teacher=teacher)


def _more_bayesian(s, seed, cost):
    start, epochs = _network(s, "ST", seed, cost / 2), cost / 2 / PRICES["gnp"]
    kept = common.snapshots(start, "MBA", epochs=epochs, per_epoch=s.kept / epochs, dataset=s.dataset)
    return {"kind": "Apply", "call": common.call("swag_mean"), "of": kept}


TUNED = {"DRA": _dra, "SASD": _sasd, "MoreBayesian": _more_bayesian}


def _of(scale, kept, main=TRAININGS + tuple(TUNED)):
    return lambda: frontier.SCALES[scale]().but(main=main, kept=kept)


SCALES = {
    **{name: _of(name, 300) for name in ("cifar10", "imagenette")},
    "cpu": _of("cpu", 30),
    "smoke": _of("smoke", 3, ("ST", "SAM", "SASD", "MoreBayesian")),
}


def epochs_of(spec):
    """How long a network was trained, with what it goes on from; not its teacher."""
    if spec["kind"] == "Apply":
        return epochs_of(spec["of"][-1])
    return spec["training"]["epochs"] + (
        epochs_of(spec["start"]) if "training" in spec.get("start", ()) else 0
    )


def _surrogates(s, mechanisms, seeds, cost):
    for mechanism in mechanisms:
        for seed in seeds:
            how = TUNED.get(mechanism)
            spec = how(s, seed, cost) if how else _network(s, mechanism, seed, cost)
            tags = {"seed": seed, "epochs": epochs_of(spec)}
            yield mechanism, {"mechanism": mechanism, **tags}, spec
            if mechanism in SCALED:
                scaled = {"kind": "Apply", "call": common.call("weight_scaling"), "of": (spec,)}
                label = f"{mechanism}, WS"
                yield label, {"mechanism": label, **tags}, scaled


def get_config(variant="cpu"):
    """Every mechanism for the same cost, three attacks, the targets of the table of attacks."""
    s, seeds, said = scales.chosen(SCALES, variant, mechanisms="", targets="", cost=0.0)
    mechanisms = named(said["mechanisms"]) if said["mechanisms"] else s.main
    cost = said["cost"] or 2 * s.training["epochs"]
    surrogates = tuple(_surrogates(s, mechanisms, seeds, cost))
    asked = scales.several(said["targets"], s.targets, "targets", "this scale") or s.targets
    targets = tuple((label, {}, s.target(label)) for label in asked)
    chosen = tuple(
        row for name, spent in ATTACKS for row in frontier.attacks(s, names=(name,), costs=(spent,))
    )
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
