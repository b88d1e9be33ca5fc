"""TPA (Fan et al., NeurIPS 2024): its tables, ablations, flatness and bound as views over shared networks.

    TFDS_DATA_DIR=<where the data are> transferjax study --config=configs/tpa.py:<scale> \
        --store=runs/store [--dry_run] [--views=table1,claims]

| scale | surrogates | targets | images |
|---|---|---|---|
| `full` | ResNet-50/152, DenseNet-121/201 | the fourteen of Table 1, from torchvision's files | 1000 |
| `cpu` | the S&P study's narrow VGG-11, three seeds | its four; its adversarially trained ones | 1000 |
| `smoke` | tiny | tiny | digits; for tests |

Behind a scale, `,key=value` changes it: `cpu,count=200,tables=table1+claims`; `seed=2` is that one alone,
which decides no claim: they need several, or several surrogates. All attacks take 20 steps of `eps / 10`,
RAP and Self-Universality too; TPA has N = 10 and b = 16/255 whatever ε; ablations are at 8/255. TPA is the
algorithm of its released code (the paper's own is `variant="paper"`, see `transferjax.attacks.tpa`): λ is
its share α of the neighbours' gradients, b and k are those of the code in units of 1/255 and of a normalized
pixel. Images at `full` are those of NIPS 2017, where the paper has 10,000 of ImageNet. "L2-0.05" is
adversarially trained at that L2 budget; SIN and SIN-IN are ResNet-50s of Geirhos et al.; their files are
read as they are (`transferjax.models.weights`), and NRP's (`weights/NRP.pth`). Of Table 5 `full` lacks
ComDefend, which no file here fits and no training at 224 px was tried for. What our networks stand for,
pages say.
"""

from configs import attacked, common, scales
from configs.attacked import HALF, Attacks, Nets, block, swept

BASELINES = {
    **{name: name for name in ("BIM", "MI", "NI", "TIM", "VMI", "SSA", "RAP", "BSR", "PGN", "TPA")},
    **{"TIM": "TI", "VMI": "VT", "DIM": "DI"},
}
"""Neutral names, and what the paper calls them."""
ALL = (
    *("table1", "table2", "table3", "table5", "table6", "eps", "weight", "beta", "radius", "neighbors"),
    *("flatness", "attention", "claims"),
)
STRONG = ("VT", "SSA", "RAP", "TPA")  # of Tables 5 and 6
RANDOM = ("targeted", {"aim": "random"})


def _full():
    surrogates = {
        "ResNet50": ("resnet50",),
        "ResNet152": ("resnet152",),
        "DenseNet121": ("densenet121",),
        "DenseNet201": ("densenet201",),
    }
    targets = {
        "EfficientNet": ("efficientnet_b0",),
        "InceptionV3": ("inception_v3", "", 224, HALF),  # all at 224 px, as the paper has them
        "MobileNetV2": ("mobilenet_v3_small",),  # as the paper prints it
        "SqueezeNet": ("squeezenet1_1",),
        "ShuffleNetV2": ("shufflenet_v2_x1_0",),
        "ConvNet": ("convnext_tiny",),
        "RegNet": ("regnet_x_16gf",),
        "MNASNet": ("mnasnet1_0",),
        "WideResNet50": ("wide_resnet50_2",),
        "VGG19": ("vgg19_bn",),
        "ViT": ("vit_b_16",),
        "Swin": ("swin_t",),
    }
    secured = {
        "AdvIncV3": ("inception_v3", ".tf_adv_in1k", 224, HALF),
        "EnsAdvIncResV2": ("inception_resnet_v2", ".tf_ens_adv_in1k", 224, HALF),
        **{name: ("resnet50", f".{name}") for name in ("SIN", "SIN-IN")},
        **{
            f"L2-{eps}": ("resnet50", f".l2_eps{eps}")
            for eps in ("0.03", "0.05", "0.1", "0.5", "1", "3", "5")
        },
    }
    return attacked.imagenet(
        surrogates,
        {**targets, **secured},
        seen=224,
        count=1000,
        eps_255=16,
        ablated=8,
        attacks=Attacks(steps=20, step=1 / 10, long=20),
        secured=tuple(secured),
        defences=("R&P", "NIPS-R3", "FD", "RS", "NRP"),
        layer="layer3.5",
        baselines=tuple(BASELINES.values()),
        budgets=(2, 4, 8, 16),
        weights_of=(0.1, 0.4, 0.6, 0.8, 0.9),
        betas=(1, 2, 4, 8, 12, 16),
        radii=(0.01, 0.03, 0.05, 0.07, 0.09),
        counts=(5, 10, 15, 20),
        looked=100,
        stands_for=(),
    )


def _cpu():
    return attacked.trained(
        scales.cpu(),
        "VGG11",
        eps_255=8,
        ablated=8,
        attacks=Attacks(8 / 255, steps=20, step=1 / 10, neighbors=20, samples=10, kernel_size=5, long=20),
        secured=("L2-0.01", "L2-0.03", "L2-0.05"),
        trained_by=("AT_1", "AT", "AT_3"),
        otherwise="VGG16",
        defences=("R&P", "NIPS-R3", "FD", "RS", "NRP", "ComDefend"),
        purifiers={
            "NRP": {"features": 16, "blocks": 2, "layer": "features.6"},
            "ComDefend": {"features": 16},
        },
        purifying=attacked.purifying(4.0, 64),
        layer="features.9",
        baselines=tuple(BASELINES.values()),
        budgets=(2, 4, 8, 16),
        weights_of=(0.1, 0.4, 0.6, 0.8, 0.9),
        betas=(1, 4, 8, 16),
        radii=(0.01, 0.05, 0.09),
        counts=(5, 10, 20),
        looked=200,
        stands_for=(("VGG11", "ResNet50"), ("ResNet50", "WideResNet50"), ("VGG16", "VGG19"), (8, 16)),
    )


def _smoke():
    return attacked.trained(
        scales.smoke(),
        "ResNet18",
        eps_255=32,
        ablated=32,
        attacks=Attacks(32 / 255, steps=2, neighbors=2, samples=2, scales=2, kernel_size=3, long=2),
        secured=("L2-0.05",),
        trained_by=("AT_3",),
        otherwise="VGG16",
        defences=("R&P",),
        layer="",
        baselines=("VT", "PGN", "TPA"),
        budgets=(16, 32),
        weights_of=(0.1, 0.8, 0.9),
        betas=(1, 16),
        radii=(0.01, 0.09),
        counts=(1, 2),
        looked=32,
        stands_for=(("ResNet18", "ResNet50"), ("VGG16", "VGG19"), (32, 16)),
    )


SCALES = {"full": _full, "cpu": _cpu, "smoke": _smoke}


def attacks(s):
    """Every attack by its label, with steps of a tenth of the budget."""
    named = s.attacks.named()
    found = {label: named[name] for name, label in BASELINES.items() if label in s.baselines}
    for name in (name for name in STRONG if name in s.baselines and name != "RAP"):  # Table 6 has no RAP
        attack, options = found[name]
        for steps in (s.attacks.steps // 2, s.attacks.steps):
            found[f"{name}, {steps} steps"] = (attack, {**options, "steps": steps})
    if s.layer:
        found["Self-Universality"] = s.attacks.plain("self_universality", layer=s.layer)
    tpa, options = found["TPA"]
    found |= swept("weight", tpa, "weight", s.weights_of, options)
    found |= swept("beta", tpa, "beta", s.betas, options, 1.84 / 255)
    found |= swept("radius", tpa, "radius", s.radii, options, 0.225)
    found |= swept("neighbors", tpa, "neighbors", s.counts, options)
    return tuple((label, name, options) for label, (name, options) in found.items())


SWEPT = ("weight", "beta", "radius", "neighbors")


def blocks(s, nets, secured, defences):
    """Every block by name."""
    labels = [label for label, _, _ in attacks(s)]
    table, own = s.baselines, nets.surrogates
    targets = [label for label in (nets.specs if s.nets else nets.targets) if label not in secured]
    black = [label for label in targets if label not in own[:1]]
    steps = [label for label in labels if label.endswith(" steps")]
    foreign = [label for label in black if label not in own]
    printed = ["ResNet50", "DenseNet121", "EfficientNet"]  # Table 6's targets
    strong = [name for name in STRONG if name in table]
    targeted = [name for name in table if name not in ("BIM", "NI", "TI")]
    targeted += ["Self-Universality"] if s.layer else []
    sweeps = {
        name: block(s, own, [label for label in labels if label.startswith(f"{name}=")], black, (s.ablated,))
        for name in SWEPT
    }
    looked = {"data": s.images(s.looked), "noise": False}
    return {
        "table1": block(s, own, table, targets),
        "table2": block(s, own, table, secured),
        "table3": block(s, own[:1], targeted, black, goals=(RANDOM,)),  # as printed, and it has `layer`
        "table5": block(s, own, strong, defences),
        "table6": block(s, own, steps, printed if s.nets else black),
        "eps": block(s, own, ("TPA",), black, s.budgets),
        **sweeps,
        "flatness": block(s, own, table, foreign[:2], **looked),
        "attention": block(s, own, strong, foreign[:1], goals=(RANDOM,), **looked),
    }


def views(s, tables):
    """The views by name."""
    there = scales.looked_at(tables, ALL)
    printed = {"stands_for": s.stands_for}
    roles = {
        "attacks": "table1",
        "secured": "table2",
        "targeted": "table3",
        "defences": "table5",
        "steps": "table6",
    }
    roles |= {name: name for name in (*SWEPT, "flatness")}
    found = {
        **{
            name: ("attacks", {"block": name, "table": f"tpa_{name}", **printed})
            for name in ("table1", "table2", "table3", "table5", "table6")
        },
        "eps": ("attacks", {"block": "eps"}),
        **{name: ("sweep", {"block": name}) for name in SWEPT},
        "flatness": ("flatness", {"block": "flatness"}),
        "attention": ("attention", {"block": "attention"}),
        "claims": (
            "claims",
            {
                "block": "table1",
                "paper": "tpa",
                "roles": tuple(
                    (role, "flatness" if role == "flatness" else "transfer", {"block": name})
                    for role, name in roles.items()
                    if name in there
                ),
            },
        ),
    }
    return tuple((name, *found[name]) for name in tables)


def get_config(variant="cpu"):
    """Everything of one scale."""
    s, seeds, said = scales.chosen(SCALES, variant, tables="")
    tables = scales.several(said["tables"], ALL, "tables", variant.partition(",")[0]) or ALL
    nets = Nets(s, seeds)
    defences = nets.defended(s.defences) if "table5" in scales.looked_at(tables, ALL) else ()
    asked, secured = views(s, tables), s.secured
    if not s.nets:
        secured = tuple(
            nets.add(label, s.target(s.otherwise, how))
            for label, how in zip(secured, s.trained_by, strict=True)
        )
    return common.study(
        f"TPA on {s.where}",
        networks=tuple(nets.entries),
        attacks=attacks(s),
        blocks=common.needed(blocks(s, nets, secured, defences), asked),
        views=asked,
        batch_size=s.batch_size,
        checkpoint_epochs=s.checkpoint_epochs,
    )
