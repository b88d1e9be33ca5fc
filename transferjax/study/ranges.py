"""What the options of a study's tables may be; attacks share their own vocabulary (`attacks.vocabulary`).

A name means the same in all rows of a table, but for those that say "row.option". Tuples are looked at entry
by entry. What needs the data or the network around is asked where they are known.
"""

from collections.abc import Callable, Mapping
from typing import Any

from transferjax.attacks.vocabulary import COUNT, FROM_ZERO, KERNEL, POSITIVE, SHARE, Range

BELOW_ONE = Range("must lie in [0, 1), below 1", lambda value: 0 <= value < 1)
PART = Range("must lie in (0, 1]", lambda value: 0 < value <= 1)
INSIDE = Range("must lie between 0 and 1", lambda value: 0 < value < 1)
WHOLE = FROM_ZERO._replace(whole=True)
ANY = Range("may be any number", lambda value: True)
Ranges = Mapping[str, "Range | tuple[str, ...]"]


def _named(*kinds: tuple["Range | tuple[str, ...]", str]) -> Ranges:
    return {name: kind for kind, names in kinds for name in names.split()}


def _between(low: int, high: int) -> Range:
    return Range(f"must lie in {low} … {high}", lambda value: low <= value <= high, whole=True)


MODELS = _named(
    (
        COUNT,
        "stride head_width stem_width "
        "blocks growth patch depth heads hidden image_size window group groups width_per_group widths last "
        "middle denoiser",
    ),
    (POSITIVE, "width eps"),
    (FROM_ZERO, "squeeze"),
    (BELOW_ONE, "dropout"),
)
SCHEDULES = _named((POSITIVE, "peak factor at"), (FROM_ZERO, "warmup_epochs start end"))
OPTIMIZERS = _named((BELOW_ONE, "momentum b1 b2"), (FROM_ZERO, "weight_decay"))
AUGMENTS = _named((WHOLE, "padding"))
PARTS = _named(
    (SHARE, "prob"),
    (POSITIVE, "rho mixup.alpha cutmix.alpha"),
    (FROM_ZERO, "alpha weight eps step_size"),
    (COUNT, "rounds size steps every projections"),
    (PART, "esam.beta gamma"),
    (BELOW_ONE, "decay start"),
    (("official", "paper"), "scaling"),
    (("both", "first"), "batch_stats"),
    (("linf", "l2"), "norm"),
)
PREPROCESSING = _named(
    (ANY, "mean"),
    (POSITIVE, "std scale"),
    (WHOLE, "size label_offset num_classes"),
    (PART, "crop"),
    (("keep", "squash"), "aspect"),
    (("nearest", "bilinear", "bicubic", "lanczos"), "interpolation"),
    (("RGB", "BGR"), "channels"),
)
METHODS = ("auto", "exact", "leading", "class_lanczos", "lanczos", "power")
MEASURES = _named(
    (COUNT, "k samples chunk"),
    (KERNEL, "points"),
    (POSITIVE, "c radius extent"),
    (INSIDE, "variance"),
    (METHODS, "method"),
    (("frechet", "off_subspace"), "statistic"),
    (("alex", "vgg", "squeeze"), "net"),
)
FILTERS = ("nearest", "linear", "bilinear", "cubic", "bicubic", "lanczos3", "lanczos5")
APPLY = _named(
    (_between(1, 8), "bits"),
    (_between(1, 100), "quality"),
    (COUNT, "samples size low high count features blocks width multiples"),
    (POSITIVE, "sigma step"),
    (PART, "strength"),
    (FROM_ZERO, "angle shear decay attention qkv mlp gamma weight scale"),
    (POSITIVE, "factor"),
    (BELOW_ONE, "radius ghost_dropout.rate zoom"),
    (SHARE, "shift jitter"),
    (Range("must be above 1", lambda value: value > 1), "resize_and_pad.rate"),
    (WHOLE, "first last indices seed truncated"),
    (FILTERS, "method"),
)
DERIVED = _named((COUNT, "steps"), (POSITIVE, "step_size eps"))
PURIFIERS = _named((COUNT, "features blocks"), (FROM_ZERO, "code_penalty"), (SHARE, "eps"))
PIECES = _named(
    (COUNT, "samples neighbors chunk steps blocks rows columns mesh patch regions"),
    (SHARE, "prob rho share position"),
    (POSITIVE, "rate sigma"),
    (FROM_ZERO, "radius inner_radius step_size decay inner_decay max_angle beta weight"),
    (ANY, "probe.radius here there"),  # it may look back, and take away
    (WHOLE, "seed late_start"),
    (KERNEL, "kernel_size"),
)


def check(ranges: Ranges, row: str, option: str, value: Any) -> None:
    """One option of a row; what is no number, and names without a range, pass.

    Raises:
        ValueError: with the name, what was expected, and the value.
    """
    kind = ranges.get(f"{row}.{option}", ranges.get(option))
    if kind is None or value is None:
        return
    if not isinstance(kind, Range):
        if isinstance(value, str) and value not in kind:
            raise ValueError(f"{option} must be one of {', '.join(kind)}; got {value!r}")
    elif not all(map(_holds(kind), _numbers(value))):
        raise ValueError(f"{option} {kind.words}; got {value!r}")


def _holds(kind: Range) -> Callable[[float], bool]:
    return lambda number: kind.holds(number) and not (kind.whole and number != int(number))


def _numbers(value: Any) -> list[float]:
    if isinstance(value, tuple):
        return [number for entry in value for number in _numbers(entry)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []
