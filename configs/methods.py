"""Every way to train a surrogate: which parts fill the slots of the one train step.

A part is a name of the registry with its options; mechanisms add up, so "SAM&IR" has the parts of SAM and of
IR, and "WASAM" is "SAM&SWA". No part at all is standard training, ST. Magnitudes τ ("IR_5") are those of
Table 11 of Zhang et al., "Why Does Little Robustness Help?", S&P 2024; a mechanism without one has the
magnitude of Tables 2 and 3. Where the paper's equations say something else than its official code, the code
counts, and "IR[paper]" is the equation: IR and JR per example (`scaling="paper"`), MU and CM in one round.
"""

DATASETS = ("cifar10", "imagenette")

_P = (0.1, 0.3, 0.5, 0.7, 0.9)
_SMOOTHING = (0.1, 0.2, 0.3, 0.4, 0.5)
_EPS = (0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0)

# mechanism: (name, the hyper-parameter that grows with τ, its values for each data set)
_MAGNITUDES = {
    "MU": ("mixup", "prob", _P, _P),
    "CM": ("cutmix", "prob", _P, _P),
    "CO": ("cutout", "size", (8, 12, 16, 20, 24), (80, 100, 120, 140, 160)),
    "LS": ("label_smoothing", "prob", _SMOOTHING, _SMOOTHING),
    "AT": ("adversarial", "eps", _EPS, (0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 5.0)),
    "IR": ("input_gradient", "weight", (0.1, 0.3, 0.5, 0.7, 1), (0.1, 0.5, 1, 1.5, 2)),
    "JR": ("jacobian", "weight", (1e-5, 1e-4, 0.01, 0.05, 0.1), (0.001, 0.01, 0.1, 0.5, 1)),
    "ER": ("er", "weight", (0.001, 0.005, 0.01, 0.05, 0.1), (0.05, 0.3, 0.5, 0.7, 1)),
    "SAM": ("sam", "rho", (0.01, 0.05, 0.1, 0.15, 0.2), (0.2, 0.5, 1, 2, 3)),
}
# τ of the mechanisms that Tables 2 and 3 show at one magnitude only, for each data set.
_TABLES = {"AT": (2, 5), "IR": (3, 3), "JR": (2, 3), "ER": (4, 1), "SAM": (3, 1)}
# What the official code fixes besides the magnitude, by data set; what the text says is `_PAPER`.
_FIXED = {
    "MU": ({"rounds": 2}, {"rounds": 2}),
    "CM": ({"rounds": 2}, {"rounds": 2}),
    "AT": ({}, {"steps": 5}),
}
_RELATIVE_STEP = {
    "AT": (None, 0.4)
}  # length of a step in units of the budget, where it is not the attack's own
_PAPER = {
    "MU": {"rounds": 1},
    "CM": {"rounds": 1},
    "IR": {"scaling": "paper"},
    "JR": {"scaling": "paper"},
}
# Beyond Table 11: the sharpness minimizers of Gubri et al., 2023 (l-SAM is SAM with a large ρ), and averages.
_OTHERS = {
    "l-SAM": (("sam", {"rho": 0.3}),),
    "ASAM": (("asam", {"rho": 1.0}),),
    "GSAM": (("gsam", {"rho": 0.1, "alpha": 0.15}),),
    "AGSAM": (("agsam", {"rho": 1.0, "alpha": 0.15}),),
    "LookSAM": (("look_sam", {"rho": 0.1}),),
    "MSAM": (("msam", {"rho": 0.3}),),
    "ESAM": (("esam", {"rho": 0.1}),),
    "GNP": (("gnp", {"weight": 0.08}),),  # λ/ρ = 0.8, as Zhao et al. advise
    "MBA": (("gnp", {"weight": 1.0}),),  # what Li et al. go on with from a trained network: MoreBayesian
    "DCG": (("score_matching", {"weight": 6.0}),),
    "SWA": (("swa", {}),),
    "EMA": (("ema", {"decay": 0.999}),),
    "WASAM": (("sam", {"rho": 0.1}), ("swa", {})),
}
MECHANISMS = ("ST", *_MAGNITUDES, *_OTHERS)


def _read(text):
    """Name, τ and whether the equation is meant, of "IR_5[paper]".

    Raises:
        ValueError: something else.
    """
    rest = text.removesuffix("[paper]")
    name, _, tau = rest.partition("_")
    if not name.replace("-", "").isalpha() or ((tau or rest != name) and not tau.isdecimal()):
        raise ValueError(f"mechanism {text!r}: expected a name, τ if any and [paper] if meant: 'IR_5[paper]'")
    return name, tau, rest != text


def _check_tau(name, tau):
    """Whether a mechanism has the magnitude that is asked for.

    Raises:
        ValueError: it has none, or not that one, or the number begins with a zero, as no τ does.
    """
    if name not in _MAGNITUDES:
        raise ValueError(f"{name}_{tau}: {name} has no τ: write {name}")
    last = len(_MAGNITUDES[name][2])
    if str(int(tau)) != tau:
        raise ValueError(f"{name}_{tau}: expected a τ from 1 to {last}, in digits as in {name}_{last}")


def _unknown(name):
    near = {each.upper(): each for each in MECHANISMS}.get(name.upper())
    meant = f"did you mean {near}?" if near else f"expected one of {', '.join(MECHANISMS)}"
    return ValueError(f"unknown mechanism {name!r}: {meant}")


def _part(name, tau, paper, dataset):
    """The parts of one mechanism."""
    if name not in MECHANISMS:
        raise _unknown(name)
    if tau:
        _check_tau(name, tau)
    if paper and name not in _PAPER:
        raise ValueError(f"{name}[paper]: paper and code agree on {name}; they differ on {', '.join(_PAPER)}")
    if name == "ST":
        return ()
    if name in _OTHERS:
        return _OTHERS[name]
    factory, parameter, *values = _MAGNITUDES[name]
    place = DATASETS.index(dataset)
    if not tau and name not in _TABLES:
        raise ValueError(f"{name}: Tables 2 and 3 have several magnitudes; name one, such as {name}_1")
    tau = int(tau or _TABLES[name][place])
    if not 1 <= tau <= len(values[place]):
        raise ValueError(f"{name}_{tau}: magnitudes go from 1 to {len(values[place])}")
    value = values[place][tau - 1]
    options = {parameter: value} | _FIXED.get(name, ({}, {}))[place]
    if relative := _RELATIVE_STEP.get(name, (None, None))[place]:
        options["step_size"] = relative * value
    return ((factory, options | (_PAPER[name] if paper else {})),)


def magnitudes(name, dataset="cifar10"):
    """Every τ of a mechanism by its name: "IR_1" … "IR_5"."""
    values = _MAGNITUDES[name][2:][DATASETS.index(dataset)]
    return tuple(f"{name}_{tau}" for tau in range(1, len(values) + 1))


def strength(mechanism, dataset="cifar10"):
    """The hyper-parameter of Table 11 of one mechanism, 0.5 for "IR_3"; None for sums and what has none."""
    if "&" in mechanism or (read := _read(mechanism))[0] not in _MAGNITUDES:
        return None
    ((_, options),) = _part(*read, dataset)
    return options[_MAGNITUDES[read[0]][1]]


def method(mechanism, dataset="cifar10"):
    """The parts of a mechanism: "ST", "SAM", "IR_5" (τ = 5), "IR[paper]", "SAM&IR", "SAM_1&JR".

    Raises:
        ValueError: an unknown one, a magnitude that it has not, or a part that two of a sum have.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset={dataset!r}: Table 11 has {', '.join(DATASETS)}")
    names = spelled(mechanism).split("&")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"mechanism {mechanism!r}: {twice[0]} named twice: name it once")
    parts = [(text, *part) for text in names for part in _part(*_read(text), dataset)]
    for _, part, _ in parts:
        if len(who := [text for text, name, _ in parts if name == part]) > 1:
            raise ValueError(
                f"mechanism {mechanism!r}: {' and '.join(who)} are both {part}: keep one of them"
            )
    return tuple({"name": part, "options": options} for _, part, options in parts)


def spelled(mechanism):
    """The one spelling of a sum, in which labels and tables compare: "SAM&IR" of "SAM & IR"."""
    return "&".join(part.strip() for part in mechanism.split("&"))


def named(text):
    """The mechanisms that a variant names, "ST+SAM & IR", in their one spelling."""
    return tuple(map(spelled, text.split("+")))
