"""PGN (Ge et al., NeurIPS 2023): its tables, ablations and loss surfaces as views over shared networks.

    TFDS_DATA_DIR=<where the data are> transferjax study --config=configs/pgn.py:<scale> \
        --store=runs/store [--dry_run] [--views=attacks,claims]

| scale | surrogates, alone and together | targets | images |
|---|---|---|---|
| `full` | Inception-v3/v4, Inception-ResNet-v2, ResNet-50/101/152 | those; two defended ones | 1000, 299 px |
| `cpu` | the S&P study's narrow VGG-11, three seeds | its four targets | 1000 of CIFAR-10 |
| `smoke` | tiny | tiny | digits; for tests |

Behind a scale, `,key=value` changes it: `cpu,count=200,tables=attacks+claims`; `seed=2` is that one alone,
which decides no claim: they need several, or several surrogates. Settings are those of the authors' code:
16/255, ten steps of 1.6/255, momentum 1, N = 20, δ = 0.5, ζ = 3; baselines as in their papers. The paper's
tables could not be had: the attacks are laid beside TransferAttack's page of results, which is no paper's.

`full` reads `weights/<timm's name>.safetensors` and the images of NIPS 2017, adversarially trained nets as
in `configs/sp2024_vit.py`; where the paper has ens3- and ens4-adv-Inception-v3, of which timm has no files,
adv-Inception-v3 stands. TensorFlow's original files have 1001 logits, the first for no class: such a net
takes `label_map=attacked.BACKGROUND_FIRST`. NRP and HGD are the published ones there (`weights/NRP.pth`,
`weights/hgd_resnet152.safetensors` and the others of `transferjax.models.denoised`), and trained at `cpu`,
where the budget is 8/255, N is 10 and RAP takes 100 steps.
"""

from configs import attacked, common, scales
from configs.attacked import HALF, Attacks, Nets, block, swept

TABLE = {"MI": "MI-FGSM", "NI": "NI-FGSM", "VMI": "VMI-FGSM", "EMI": "EMI-FGSM", "RAP": "RAP", "PGN": "PGN"}
"""The attacks of its tables, by the names of TransferAttack's page."""
TRANSFORMS = {"DIM": "DIM", "TIM": "TIM", "SIM": "SIM", "Admix": "Admix", "SSA": "SSM"}
AVERAGED = ("DIM", "TIM", "SIM")
"""The transformations around which PGN's average stands alone too, δ = 0: what its penalty adds there."""
ALL = (
    *("attacks", "combined", "averaged", "ensemble", "defences", "exact", "zeta", "neighbors", "delta"),
    *("flatness", "surfaces", "claims"),
)


def _full():
    nets = {
        "InceptionV3": ("inception_v3", "", 299, HALF),
        "InceptionV4": ("inception_v4", "", 299, HALF),
        "IncResV2": ("inception_resnet_v2", "", 299, HALF),
        "ResNet50": ("resnet50", "", 299),
        "ResNet101": ("resnet101", "", 299),
        "ResNet152": ("resnet152", "", 299),
    }
    trained = {
        "AdvIncV3": ("inception_v3", ".tf_adv_in1k", 299, HALF),
        "EnsAdvIncResV2": ("inception_resnet_v2", ".tf_ens_adv_in1k", 299, HALF),
        "VGG16": ("vgg16_bn", "", 299),
        "MobileNetV2": ("mobilenetv2_100", "", 299),
    }
    return attacked.imagenet(
        nets,
        trained,
        count=1000,
        eps_255=16,
        stands_for=(),
        transforms=TRANSFORMS,
        lent=("VMI", "EMI", "PGN"),
        averaged=AVERAGED,
        compared=tuple(TABLE.values()),
        together=tuple(TABLE.values()),
        attacks=Attacks(),
        defences=("R&P", "NIPS-R3", "JPEG", "FD", "RS", "HGD", "NRP"),
        zetas=(0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0),
        counts=(1, 4, 8, 12, 16, 20),
        deltas=(0.0, 0.25, 0.5, 0.75, 1.0),
        shares=(),
        looked=100,
        drawn=16,
        points=41,
    )


def _cpu():
    return attacked.trained(
        scales.cpu(),
        "VGG11",
        eps_255=8,
        stands_for=(("VGG11", "ResNet50"), (8, 16)),
        transforms=TRANSFORMS,
        lent=("VMI", "EMI", "PGN"),
        averaged=AVERAGED,
        compared=tuple(TABLE.values()),
        together=tuple(TABLE.values()),
        attacks=Attacks(8 / 255, neighbors=10, samples=10, kernel_size=5, long=100),
        defences=("R&P", "NIPS-R3", "JPEG", "FD", "RS", "HGD", "NRP"),
        purifiers={"HGD": {"features": 16}, "NRP": {"features": 16, "blocks": 2, "layer": "features.6"}},
        purifying=attacked.purifying(4.0, 64),
        zetas=(0.5, 1.0, 2.0, 3.0, 4.0),
        counts=(1, 5, 10, 20),
        deltas=(0.0, 0.25, 0.5, 0.75, 1.0),
        shares=(1 / 4, 1 / 16),
        looked=200,
        drawn=16,
        points=21,
    )


def _smoke():
    return attacked.trained(
        scales.smoke(),
        "ResNet18",
        eps_255=32,
        stands_for=(("ResNet18", "ResNet50"), (32, 16)),
        transforms={"DIM": "DIM"},
        lent=("PGN",),
        averaged=("DIM",),
        compared=("MI-FGSM", "VMI-FGSM", "PGN"),
        attacks=Attacks(32 / 255, steps=2, neighbors=2, samples=2, scales=2, kernel_size=3, long=2),
        defences=("R&P",),
        zetas=(0.5, 3.0),
        counts=(1, 2),
        deltas=(0.0, 0.5, 1.0),
        shares=(1 / 4,),
        together=("MI-FGSM", "PGN"),
        looked=32,
        drawn=32,
        points=5,
    )


SCALES = {"full": _full, "cpu": _cpu, "smoke": _smoke}


def penalized(s):
    """PGN by finite difference and by the Hessian, `(label, exact, share)`.

    The share is of the step that it looks ahead: how far its gradient is taken for linear.
    """
    for share in (1, *s.shares):
        for name, exact in (("PGN", False), ("PGN, Hessian", True)):
            yield name if share == 1 else f"{name}, 1/{1 / share:g} step", exact, share


def attacks(s):
    """Every attack by its label."""
    a = s.attacks
    named = a.named()
    found = {label: named[name] for name, label in TABLE.items() if label in s.compared}
    for name, label in s.transforms.items():
        found[label] = named[name]
        found |= {f"{how}-{label}": a.combined(how, name) for how in s.lent}
        if name in s.averaged:
            found[f"averaged {label}"] = a.combined("average", name)
    pgn, options = named["PGN"]
    found |= swept("zeta", pgn, "zeta", s.zetas, options)
    found |= swept("neighbors", pgn, "neighbors", s.counts, options)
    found |= swept("delta", pgn, "delta", s.deltas, options)
    for label, exact, share in penalized(s):
        rules = a.flat(exact=exact, share=share)
        found.setdefault(label, ("mi_fgsm", {"steps": a.steps, "outer_rules": rules}))
    return tuple((label, name, options) for label, (name, options) in found.items())


def blocks(s, nets, defences):
    """Every block by name."""
    labels = [label for label, _, _ in attacks(s)]
    table, own = s.compared, nets.surrogates
    targets = nets.targets if not s.nets else tuple(nets.specs)
    combined = [
        *s.transforms.values(),
        *(label for label in labels if label.partition("-")[2] in s.transforms.values()),
    ]
    transforms = [s.transforms[name] for name in s.averaged]
    averaged = [f"{how}{label}" for label in transforms for how in ("", "averaged ", "PGN-")]
    sweeps = {
        name: block(s, own, [label for label in labels if label.startswith(f"{name}=")], nets.targets)
        for name in ("zeta", "neighbors", "delta")
    }
    return {
        "attacks": block(s, own, table, targets),
        "combined": block(s, own, combined, nets.targets),
        "averaged": block(s, own, averaged, nets.targets),
        "ensemble": block(s, ("ensemble",), s.together, nets.targets),
        "defences": block(s, own, table, defences),
        "exact": block(s, own, ("MI-FGSM", *(label for label, *_ in penalized(s))), nets.targets),
        **sweeps,
        "flatness": block(s, own, table, nets.targets, data=s.images(s.looked), noise=False),
        "surfaces": block(s, own, table, nets.targets, data=s.images(s.drawn), noise=False),
    }


def views(s, tables):
    """The views by name."""
    there = scales.looked_at(tables, ALL)
    flat = {"block": "flatness", "radius_255": float(s.eps_255)}
    shown = ("combined", "averaged", "ensemble", "defences", "exact")
    names = ("attacks", "combined", "zeta", "neighbors", "delta", "exact")
    roles = (*((name, "transfer", {"block": name}) for name in names), ("flatness", "flatness", flat))
    found = {
        "attacks": (
            "attacks",
            {"block": "attacks", "table": "transferattack_resnet50", "stands_for": s.stands_for},
        ),
        **{name: ("attacks", {"block": name}) for name in shown},
        **{name: ("sweep", {"block": name}) for name in ("zeta", "neighbors", "delta")},
        "flatness": ("flatness", flat),
        "surfaces": ("surfaces", {"block": "surfaces", "points": s.points}),
        "claims": (
            "claims",
            {
                "block": "attacks",
                "paper": "pgn",
                "roles": tuple(role for role in roles if role[0] in there),
            },
        ),
    }
    return tuple((name, *found[name]) for name in tables)


def get_config(variant="cpu"):
    """Everything of one scale."""
    s, seeds, said = scales.chosen(SCALES, variant, tables="")
    tables = scales.several(said["tables"], ALL, "tables", variant.partition(",")[0]) or ALL
    nets = Nets(s, seeds)
    if len(nets.together()) > 1:
        nets.add("ensemble", nets.together())
    elif "ensemble" in said["tables"]:
        raise ValueError(
            "tables=ensemble: expected two surrogates or more: ask for two seeds, or leave it out"
        )
    else:
        print("left out: ensemble needs two surrogates")
        tables = tuple(table for table in tables if table != "ensemble")
    defences = nets.defended(s.defences) if "defences" in tables else ()
    asked = views(s, tables)
    return common.study(
        f"PGN on {s.where}",
        networks=tuple(nets.entries),
        attacks=attacks(s),
        blocks=common.needed(blocks(s, nets, defences), asked),
        views=asked,
        batch_size=s.batch_size,
        checkpoint_epochs=s.checkpoint_epochs,
    )
