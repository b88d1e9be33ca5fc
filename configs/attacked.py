"""What the studies of attacks (PGN, TPA) share: attacks by their papers' names, scales with their networks.

Every attack takes steps of `eps / steps` and momentum 1 unless its paper says otherwise; rules that one
attack lends to another (PGN around DIM, say) are pieces of the registry.
"""

from configs import common, scales

SIXTEEN = 16 / 255
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
BACKGROUND_FIRST = tuple(range(1, 1001))
"""`label_map` of a net with 1001 logits, the first of which is for no class (TensorFlow's)."""


def pretrained(model, file="", size=224, normalization=None, seen=299, **more):
    """A net of a file in `weights/` for images of `size` px; those of `seen` px are resized."""
    net = {
        "kind": "Pretrained",
        "model": common.call(model),
        "file": f"weights/{model}{file}.safetensors",
        "preprocessing": common.call("normalize", **(normalization or common.IMAGENET)),
        **more,
    }
    if size == seen:
        return net
    return {"kind": "Apply", "call": common.call("resized", size=size), "of": (net,)}


class Attacks:
    """The attacks at a budget: `(label, name, options)` by method.

    Args:
        eps: L∞ budget, whose shares neighbourhoods are.
        steps: of all attacks but those that their papers give hundreds.
        neighbors: of PGN, VMI and the others that look around; `samples` of those that transform.
        kernel_size: of TIM.
        long: steps of RAP.
        step: length of a step as a share of the budget; 1 / steps if None.
    """

    def __init__(
        self, eps=SIXTEEN, steps=10, neighbors=20, samples=20, scales=5, kernel_size=15, long=400, step=None
    ):
        self.eps, self.steps, self.long = eps, steps, long
        self.usual, self.step = step is None, eps / steps if step is None else eps * step
        self.neighbors, self.samples, self.scales, self.kernel_size = neighbors, samples, scales, kernel_size

    def plain(self, name, **options):
        """An attack with its steps; TPA's are a tenth of any budget anyway."""
        usual = name == "tpa" or self.usual
        return (name, {"steps": self.steps, **({} if usual else {"step_size": self.step}), **options})

    def named(self):
        """Every attack by a neutral name."""
        n, s = {"neighbors": self.neighbors}, {"samples": self.samples}
        return {
            "BIM": self.plain("bim"),
            "MI": self.plain("mi_fgsm"),
            "NI": self.plain("ni_fgsm"),
            "EMI": self.plain("emi_fgsm", samples=min(11, self.samples)),
            "VMI": self.plain("vmi_fgsm", **n),
            "PGN": self.plain("pgn", **n),
            "RAP": self.plain("rap", steps=self.long, late_start=self.long // 4),
            "TPA": self.plain("tpa", neighbors=max(self.neighbors // 2, 1)),
            "DIM": self.plain("dim"),
            "TIM": self.plain("tim", kernel_size=self.kernel_size),
            "SIM": self.plain("sim", scales=self.scales),
            "Admix": self.plain("admix", scales=self.scales, samples=min(3, self.samples)),
            "SSA": self.plain("ssa", **s),
            "BSR": self.plain("bsr", **s),
        }

    def around(self, name):
        """The rules that VMI, EMI, PGN or its average alone put around another attack's gradient."""
        if name == "VMI":
            return (common.call("variance_tuning", radius=1.5 * self.eps, neighbors=self.neighbors),)
        if name == "EMI":
            return (
                common.call(
                    "enhanced_momentum", step_size=self.step, samples=min(11, self.samples), radius=7.0
                ),
            )
        return self.flat()[:1] if name == "average" else self.flat()

    def flat(self, zeta=3.0, delta=0.5, exact=False, share=1.0):
        """PGN's own: gradients at neighbours, each mixed with one that share of a step down from there."""
        noise = common.call("uniform_noise", radius=zeta * self.eps)
        near = common.call("average", transform=noise, samples=self.neighbors)
        return (
            near,
            common.call("probe", radius=-share * self.step, here=1 - delta, there=delta, exact=exact),
        )

    def combined(self, name, transform):
        """An attack around an input transformation: `PGN-DIM`."""
        other, options = self.named()[transform]
        return (other, {**options, "outer_rules": self.around(name)})


def imagenet(surrogates, targets, seen=299, **more):
    """Nets from files, on the 1000 images of the NIPS 2017 competition, attacked at `seen` px.

    The images: `data.save(data.nips2017(table, images)[0], "data/nips2017", "test")`; those of 224 px
    with `size=224`, in "data/nips2017_224". Files as `transferjax.models.weights.convert` writes them; either
    library's serve.
    """
    return scales.Scale(
        "ImageNet",
        nets={**surrogates, **targets},
        names=tuple(surrogates),
        seen=seen,
        test=common.data("data/nips2017" if seen == 299 else f"data/nips2017_{seen}"),
        seeds=1,
        batch_size=20,
        **{"purifiers": {}, **more},
    )


def trained(s, label, **more):
    """A scale whose surrogates are trainings; `label` is what the studies call them."""
    return s.but(**{"names": (label,), "purifiers": {}, **more})


class Nets:
    """The networks of a scale: `surrogates` and `targets` by label, and what is built around them.

    `entries` are what a config's `networks` hold.
    """

    def __init__(self, s, seeds):
        self.s, self.entries = s, []
        if s.nets:
            self.specs = {label: pretrained(*how, seen=s.seen) for label, how in s.nets.items()}
            self.entries = [(label, {}, spec) for label, spec in self.specs.items()]
        else:
            (label,) = s.names
            own = common.surrogates(("ST",), seeds, *s.surrogate, **s.shared(s.surrogate[0]))
            self.entries = [(label, {**tags, "mechanism": label}, spec) for _, tags, spec in own]
            self.specs = {label: own[0][2], **{name: s.target(name) for name in s.targets}}
            self.entries += [(name, {}, self.specs[name]) for name in s.targets]
        self.surrogates = s.names
        self.targets = tuple(label for label in self.specs if label not in s.names)

    def add(self, label, spec):
        """One more network; a tuple is an ensemble."""
        self.entries.append((label, {}, spec))
        return label

    def together(self):
        """All surrogates: one network's seeds, or all that a scale has."""
        return tuple(spec for name, _, spec in self.entries if name in self.surrogates)

    def defended(self, names):
        """The first target behind each of these defences; labels are the defences'."""
        net = self.specs[self.targets[0]]
        return tuple(self.add(name, self._defence(name, net)) for name in names)

    def _defence(self, name, net):
        if name not in self.s.purifiers:
            return defended(name, net)
        purifier = {
            "kind": "Purifier",
            "call": common.call(PURIFIERS[name], **self.s.purifiers[name]),
            "of": None if name == "ComDefend" else net,
            "data": self.s.train,
            "training": self.s.purifying,
        }
        return {"kind": "Apply", "call": common.call("purified"), "of": (net, purifier)}


DEFENCES = {
    "JPEG": ("jpeg", {}),
    "Bit depth": ("bit_depth", {}),
    "R&P": ("resize_and_pad", {}),
    "NIPS-R3": ("nips_r3", {}),
    "FD": ("feature_distillation", {}),
    "RS": ("smoothed", {}),
    "NRP": ("nrp", {"weights": "weights/NRP.pth"}),
    "DiffPure": ("diffpure", {"weights": "weights/256x256_diffusion_uncond.pt"}),
}
"""Name -> the row, and its options."""
PURIFIERS = {"HGD": "hgd", "NRP": "nrp", "ComDefend": "comdefend"}
"""What a scale that has `purifiers` trains itself."""


def defended(name, net):
    """A network behind a defence; HGD is its authors' four nets, whatever the network."""
    if name == "HGD":
        return {"kind": "Apply", "call": common.call("mean_logits"), "of": _hgd()}
    return around(DEFENCES[name], net)


def around(call, net):
    """A network behind a row of the predict wrappers, `(row, options)`."""
    row, options = call
    return {"kind": "Apply", "call": common.call(row, **options), "of": (net,)}


def _hgd():
    google = {"normalization": HALF, "label_map": BACKGROUND_FIRST}
    return (
        pretrained("hgd_resnet152", size=299),
        pretrained("hgd_resnext101_64x4d", size=299),
        pretrained("hgd_inception_v3", size=299, **google),
        pretrained("hgd_inception_resnet_v2", size=299, **google),
    )


def block(s, surrogates, attacks, targets, eps_255=None, goals=("untargeted",), **more):
    """Attacks on surrogates, tried on targets; at the scale's budget unless told."""
    return {
        "surrogates": tuple(surrogates),
        "attacks": tuple(attacks),
        "goals": goals,
        "eps_255": (s.eps_255,) if eps_255 is None else eps_255,
        "targets": tuple(targets),
        "data": s.images(s.count),
        "accuracy": s.test,
        **more,
    }


def swept(name, attack, option, values, options, unit=1):
    """An attack at each value of an option, in a unit: labels "zeta=3", as the view `sweep` reads them."""
    return {f"{name}={value:g}": (attack, {**options, option: unit * value}) for value in values}


def purifying(epochs, batch_size):
    """Purifiers' training: Adam on a warm-up and a cosine, on the images as they are."""
    usual = common.training(epochs, batch_size=batch_size, peak=1e-3, warmup_epochs=0.25 * epochs)
    return {**usual, "optimizer": common.call("adam"), "augment": None}
