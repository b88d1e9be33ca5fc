"""Gubri et al. (2023): early stopping and sharpness minimizers as views over shared networks.

    TFDS_DATA_DIR=<where the data are> transferjax study --config=configs/gubri.py:<scale> \
        --store=runs/store [--dry_run] [--views=training,claims]

| scale | surrogates | epochs | targets |
|---|---|---|---|
| `full` | ResNet-50 | 150, decays at 50 and 100 | ten of CIFAR-10 |
| `cpu` | the S&P study's narrow VGG-11 | 6, decays at 2 and 4 | S&P's four, and six trained otherwise |
| `smoke` | tiny | 2 | one; for tests |

Behind a scale, `,key=value` changes it: `cpu,length=6,count=200,tables=training+claims`; `length` is the
surrogates' epochs, `repeated=SWA+l-ASAM` or `repeated=all` what is trained with every seed. "Going Further:
Flatness at the Rescue of Early Stopping": BIM of 50 steps at 4/255, three seeds, bands of two standard
deviations. A surrogate is a network after each of the epochs, averages included (SWA, WASAM: of the epochs
since the first decay, and from the first of these on); where training should have stopped is chosen on
images of their own. Of each minimizer there is a small neighbourhood, its paper's default (Foret's ρ = 0.05
for SAM), and a large one ("l-"), six times as wide, as l-SAM's 0.3 is. Data of robust and non-robust features
are made with 1000 steps at `full`; their budgets are those of Figure 3. At `cpu` seeds are for SGD, SAM,
l-SAM, D_R and D_NR alone (two claims compare minimizers over seeds, and need `repeated=all`), and SGM and
ghosts, which need skip connections, have a narrow ResNet-18 of their own.
"""

from configs import attacked, common, scales

MINIMIZERS = {  # label: parts, given the share of training after which weights are averaged
    "SAM": lambda start: (("sam", {"rho": 0.05}),),
    "l-SAM": lambda start: (("sam", {"rho": 0.3}),),
    "ASAM": lambda start: (("asam", {"rho": 0.5}),),
    "l-ASAM": lambda start: (("asam", {"rho": 3.0}),),
    "GSAM": lambda start: (("gsam", {"rho": 0.05, "alpha": 0.15}),),
    "l-GSAM": lambda start: (("gsam", {"rho": 0.3, "alpha": 0.15}),),
    "AGSAM": lambda start: (("agsam", {"rho": 0.5, "alpha": 0.15}),),
    "l-AGSAM": lambda start: (("agsam", {"rho": 3.0, "alpha": 0.15}),),
    "LookSAM": lambda start: (("look_sam", {"rho": 0.05}),),
    "l-LookSAM": lambda start: (("look_sam", {"rho": 0.3}),),
    "WASAM": lambda start: (("sam", {"rho": 0.05}), ("swa", {"start": start})),
    "l-WASAM": lambda start: (("sam", {"rho": 0.3}), ("swa", {"start": start})),
    "SWA": lambda start: (("swa", {"start": start}),),
}
"""Seven minimizers; SWA has no neighbourhood."""
ALL = (
    "training",
    "decays",
    "minimizers",
    "flatness",
    "rho",
    "techniques",
    "lgv",
    "D_R",
    "D_NR",
    "D_rand",
    "D_det",
    "claims",
)
FEATURES = {"D_R": ("robust", 16), "D_NR": ("nonrobust", 2), "D_rand": ("rand", 1), "D_det": ("det", 1)}
"""How the data are made, and Figure 3's budget in 1/255."""
EVERY = ("SGD", *MINIMIZERS, *FEATURES)
"""Whatever several seeds can be trained of."""
SHARES = (1 / 6, 1 / 3, 1 / 2, 2 / 3)  # of training: decays at 25, 50, 75 and 100 of 150 epochs
USUAL = (1 / 3, 2 / 3)
EPS_255 = 4


def _full():
    nets = ("resnet18", "resnet50", "resnet101", "vgg13", "vgg16", "vgg19", "densenet121", "densenet161")
    return scales.cifar10().but(
        surrogate=("cifar_resnet50", {}),
        skipping=("cifar_resnet50", {}),
        repeated=EVERY,
        targets={
            **{name: (f"cifar_{name}", {}) for name in nets},
            "inceptionv3": ("cifar_inceptionv3", {}),
            "wideresnet28_10": ("cifar_wideresnet28_10", {}),
        },
        others={},
        tried=("BIM", "MI", "DI"),
        robust=("resnet50", "AT_6"),
        length=150.0,
        every=5,
        shares=SHARES,
        minimizers=tuple(MINIMIZERS),
        rhos=(0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        features={"steps": 1000},
        pushed={},
        smooth=1000,
        steps=50,
        peak=0.1,
        collected=(10, 4),
        count=1000,
    )


def _cpu():
    return scales.cpu().but(
        skipping=("cifar_resnet18", {"width": 16, "blocks": (1, 1, 1)}),
        repeated=("SGD", "SAM", "l-SAM", "D_R", "D_NR"),
        others={
            **{name: f"{name}_5" for name in ("MU", "CM", "CO", "LS")},
            "AT_0.01": "AT_1",
            "AT_0.05": "AT_3",
        },
        tried=("BIM", "MI", "DI"),
        robust=("VGG16", "AT_6"),
        length=6.0,
        every=1,
        shares=SHARES,
        minimizers=tuple(MINIMIZERS),
        rhos=(0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        features={"steps": 30, "step_size": 0.5},
        pushed={"steps": 10},
        smooth=200,
        steps=50,
        peak=0.05,
        collected=(2, 5),
    )


def _smoke():
    s = scales.smoke()
    return s.but(
        skipping=s.surrogate,
        repeated=("SGD", "SAM", "l-SAM"),
        others={},
        tried=("BIM",),
        robust=("VGG16", "AT_3"),
        length=3.0,
        every=1,
        shares=(),
        minimizers=("SAM", "l-SAM"),
        rhos=(0.05, 0.3),
        features={"steps": 2},
        pushed={"steps": 2},
        smooth=16,
        steps=2,
        peak=0.05,
        collected=(1, 2),
        count=16,
    )


SCALES = {"full": _full, "cpu": _cpu, "smoke": _smoke}


def training(s, shares=USUAL):
    """SGD whose learning rate falls to a tenth after these shares of its epochs."""
    at = tuple(share * s.length for share in shares)
    usual = {**s.training, "epochs": s.length}
    return {**usual, "schedule": common.call("step_decay", peak=s.peak, at=at)}


def stops(s, shares=USUAL, begin=0.0):
    """After which epochs there is a surrogate, of those after `begin`; the last is the end of training.

    Also after the first three behind each decay.
    """
    inside = [float(epoch) for epoch in range(s.every, int(-(-s.length // 1)), s.every)]
    behind = [float(round(share * s.length) + after) for share in shares for after in (1, 2, 3)]
    return (*sorted({epoch for epoch in (*inside, *behind) if begin < epoch < s.length}), float(s.length))


class Surrogates:
    """Trainings by label, each a network at every stop; `entries` as a config has them."""

    def __init__(self, s, seeds):
        self.s, self.seeds = s, seeds
        self.entries, self.stops, self.ends = [], {}, {}

    def train(self, label, parts=(), shares=USUAL, source=None, model=None):
        """A training of each seed, or of the first alone where it is not `repeated`."""
        s, model = self.s, model or self.s.surrogate
        made = [{"name": name, "options": options} for name, options in parts]
        shared = {"data": source or s.train, "training": training(s, shares), **s.stats}
        averaged = max((options.get("start", 0.0) for _, options in parts), default=0.0)
        moments = stops(s, shares, averaged * s.length)
        self.stops[label] = tuple(f"{label}, epoch {epoch:g}" for epoch in moments)
        for seed in self.seeds if label in s.repeated else self.seeds[:1]:
            net = common.network(*model, parts=tuple(made), seed=seed, **shared)
            self.ends.setdefault(label, {})[seed] = net
            for name, epoch in zip(self.stops[label], moments, strict=True):
                tags = {"mechanism": label, "seed": seed, "epoch": epoch, "decay": shares[0] * s.length}
                self.entries.append((name, tags, {**net, "epoch": epoch}))
        return self.stops[label]

    def skipping(self, label, parts=()):
        """The label of a training of the net with skip connections, which may be the surrogate."""
        if self.s.skipping == self.s.surrogate:
            return label
        name = f"{label}, {self.s.skipping[0]}"
        self.train(name, parts, model=self.s.skipping)
        return name

    def around(self, label, how, **options):
        """A predict factory around the ends of a training: "SGD + SGM"."""
        name = f"{label} + {how}"
        for seed, net in self.ends[label].items():
            spec = {"kind": "Apply", "call": common.call(**options), "of": (net,)}
            self.entries.append((name, {"mechanism": name, "seed": seed}, spec))
        return name

    def collect(self, label):
        """LGV from the ends of a training, by SGD at a constant high rate."""
        name = f"{label} + LGV"
        epochs, per_epoch = self.s.collected
        for seed, net in self.ends[label].items():
            spec = common.snapshots(net, epochs=epochs, per_epoch=per_epoch, peak=self.s.peak / 2)
            self.entries.append((name, {"mechanism": name, "seed": seed}, spec))
        return name

    def of(self, *labels, last=False):
        """All stops of these trainings, or their ends."""
        return tuple(name for label in labels for name in self.stops[label][-1 if last else 0 :])


def networks(s, seeds, views):
    """(surrogates, names of the networks of each block)."""
    found = Surrogates(s, seeds)
    found.train("SGD")
    every = {"minimizers", "flatness"} & {*views}
    for label in dict.fromkeys(("SAM", "l-SAM", *(s.minimizers if every else ()))):
        found.train(label, MINIMIZERS[label](USUAL[0]))
    blocks = {"training": found.of("SGD", "SAM", "l-SAM")}
    if every:
        blocks["minimizers"] = found.of("SGD", *s.minimizers)
    if "decays" in views:
        rows = {f"SGD, decay at {share * s.length:g}": share for share in s.shares}
        blocks["decays"] = found.of("SGD") + sum(
            (found.train(name, (), (share,)) for name, share in rows.items()), ()
        )
    if "rho" in views:
        own = {0.05: "SAM", 0.3: "l-SAM"}
        names = [own.get(rho) or f"SAM, ρ = {rho:g}" for rho in s.rhos]
        for rho, name in zip(s.rhos, names, strict=True):
            if rho not in own:
                found.train(name, (("sam", {"rho": rho}),))
        blocks["rho"] = found.of("SGD", *names, last=True)
    if "techniques" in views:
        bare = found.skipping("SGD"), found.skipping("l-SAM", MINIMIZERS["l-SAM"](USUAL[0]))
        own = [found.around(name, how, **call) for name in bare for how, call in TECHNIQUES.items()]
        blocks["techniques"] = (*found.of(*bare, last=True), *own)
    if "lgv" in views:
        blocks["lgv"] = tuple(found.collect(name) for name in ("SGD", "l-SAM"))
    plain = s.target(s.robust[0])
    for label in (label for label in FEATURES if label in views):
        how, options = FEATURES[label][0], s.features if label in ("D_R", "D_NR") else s.pushed
        maker = s.target(*s.robust) if label == "D_R" else plain
        source = common.derived(how, maker, s.train, **options)
        blocks[label] = found.train(label, source=source)
    return found.entries, blocks


TECHNIQUES = {"SGM": {"name": "skip_gradient"}, "ghosts": {"name": "ghost_skips"}}


def attacks(s):
    """BIM with steps of a tenth of each budget, and what is combined with it."""
    budgets = sorted({EPS_255, *(eps for _, eps in FEATURES.values())})
    step = {"steps": s.steps, "step_size": EPS_255 / 255 / 10}
    bim = (
        ("BIM" if eps == EPS_255 else f"BIM {eps}/255", "bim", {"steps": s.steps, "step_size": eps / 2550})
        for eps in budgets
    )
    return (
        *bim,
        ("MI", "mi_fgsm", step),
        ("DI", "dim", {**step, "decay": 0.0}),
        ("LGV", "lgv", {**step, "replace": True}),
    )


def blocks(s, targets, members):
    """Every block by name; `validation` is `minimizers` on other images."""
    curvature = tuple((name, name, {}, s.images(s.smooth)) for name in ("weight_eigenvalue", "weight_trace"))
    found = {}
    for name, surrogates in members.items():
        eps = FEATURES[name][1] if name in FEATURES else EPS_255
        own = {"techniques": s.tried, "lgv": ("LGV",)}.get(
            name, ("BIM" if eps == EPS_255 else f"BIM {eps}/255",)
        )
        last = name in ("rho", "techniques", "lgv")  # the others are drawn along training
        more = {"noise": last, "measures": curvature if name in ("training", "minimizers") else ()}
        more["accuracy"] = s.images(s.count)  # of so many networks, on the images that are attacked
        found[name] = attacked.block(s, surrogates, own, targets, (eps,), **more)
    if "minimizers" in found:
        found["validation"] = {**found["minimizers"], "data": {**s.images(s.count), "skip": s.count}}
    return found


def views(s, names, looked):
    """The views by name; claims look at the roles that are `looked` at."""
    decays = tuple(share * s.length for share in USUAL)
    roles = [("training", "epochs", {"block": "training"})]
    stopped = {"block": "minimizers", "validation": "validation"}
    roles += [("stopped", "stopped", stopped)] if "minimizers" in looked else []
    roles += [("features", "epochs", {"block": name}) for name in ("D_R", "D_NR") if name in looked]
    found = {
        "training": ("epochs", {"block": "training", "decays": decays}),
        "decays": ("epochs", {"block": "decays"}),
        "minimizers": ("stopped", stopped),
        "flatness": ("epochs", {"block": "minimizers", "decays": decays}),
        "rho": ("table", {"block": "rho"}),
        "techniques": ("table", {"block": "techniques"}),
        "lgv": ("table", {"block": "lgv"}),
        **{name: ("epochs", {"block": name, "decays": decays}) for name in FEATURES},
        "claims": ("claims", {"block": "training", "paper": "gubri", "roles": tuple(roles)}),
    }
    return tuple((name, *found[name]) for name in names)


def get_config(variant="cpu"):
    """Everything of one scale."""
    own = {"tables": "", "length": 0.0, "repeated": ""}
    s, seeds, said = scales.chosen(SCALES, variant, **own, refused={"epochs": "length says how long"})
    scale = variant.partition(",")[0]
    names = scales.several(said["tables"], ALL, "tables", scale) or ALL
    repeated = "+".join(EVERY) if said["repeated"] == "all" else said["repeated"]
    repeated = scales.several(repeated, EVERY, "repeated", scale) or s.repeated
    s = s.but(length=said["length"] or s.length, repeated=repeated)
    looked = scales.looked_at(names, ALL)
    if not s.count and "minimizers" in looked:
        raise ValueError("count=0: all test images are attacked, and none are left to choose when to stop")
    entries, members = networks(s, seeds, looked)
    others = {f"target {label}": s.target(s.robust[0], how) for label, how in s.others.items()}
    targets = {**{label: s.target(label) for label in s.targets}, **others}
    asked = views(s, names, looked)
    return common.study(
        f"Gubri et al. on {s.where}",
        networks=(*entries, *((label, {}, spec) for label, spec in targets.items())),
        attacks=attacks(s),
        blocks=common.needed(blocks(s, tuple(targets), members), asked),
        views=asked,
        batch_size=s.batch_size,
        checkpoint_epochs=s.checkpoint_epochs,
        error="two_std",
    )
