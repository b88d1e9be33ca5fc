"""What a study can name: tables of name -> row. Nothing passes for an attack or a mechanism by accident.

A row's `version` rises when its *definition* changes, defaults included: results of other versions are other
results. (`tests/study/test_pins.py` fails when defaults move and the version does not.) Adding a row: one
line here, and one in the pins. Attacks of one's own need no row: `package.module:name`, `file.py:name`.
"""

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import jax.numpy as jnp
import numpy as np

from transferjax import lazy
from transferjax.attacks import vocabulary
from transferjax.attacks.recipe import Recipe, recipe
from transferjax.data import to_float
from transferjax.naming import digest
from transferjax.study import ranges
from transferjax.study.mistakes import Mistakes, nearest, one_line
from transferjax.study.specs import Call


@dataclass(frozen=True)
class Row:
    """One name of a table.

    Args:
        place: "module:attribute" of the factory, or "module:attribute[key]".
        version: of its definition; of one's own factory, the digest of the file it stands in.
        free: options that change no result, such as `chunk`.
        files: those of them that name a file, each with what the file is; results are known by what is in
            them, the option `sha256`.
        slot: which slot of training a part fills.
        column: what reports call the quantity.
        alone: an attack of one surrogate; the others take several.
        wrap: makes one's own factory one like those of the table.
    """

    place: str
    version: int | str = 1
    free: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    slot: str = ""
    column: str = ""
    alone: bool = False
    wrap: Callable[[Any], Callable[..., Any]] | None = None

    @property
    def factory(self) -> Callable[..., Any]:
        """The function itself; its module is imported now."""
        if self.wrap is not None:
            return self.wrap(lazy.named(self.place)[1])
        module, _, attribute = self.place.partition(":")
        name, _, key = attribute.partition("[")
        found = getattr(import_module(module), name)
        return found[key.rstrip("]")] if key else found


@dataclass(frozen=True)
class Table:
    """Rows by name; `offered` parameters are filled by the engine from the spec around a call.

    `allowed` says what the others may be, `elsewhere` what another library's name is here. Where there is a
    `wrap` (see `Row`), `package.module:name` and `file.py:name` are names too.
    """

    what: str
    rows: Callable[[], Mapping[str, Row]]
    offered: frozenset[str] = frozenset()
    allowed: ranges.Ranges = field(default_factory=dict)
    wrap: Callable[[Any], Callable[..., Any]] | None = None
    elsewhere: Callable[[str, Collection[str]], str] = lambda name, rows: ""

    def row(self, name: str) -> Row:
        """The row of that name.

        Raises:
            Mistakes: unknown, with the nearest names; or no factory.
        """
        rows = self.rows()
        if self.wrap is not None and ":" in name:
            return _own(self.what, name, self.wrap)
        if name not in rows:
            hint = self.elsewhere(name, rows) or nearest(name, rows)
            raise Mistakes([f"unknown {self.what} {name!r}; {hint}"])
        return rows[name]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The parameters of a row that a study may set."""
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return {
            p.name: _resolved(p)
            for p in inspect.signature(self.row(name).factory).parameters.values()
            if p.name not in self.offered and p.kind not in several
        }


@cache
def _own(what: str, place: str, wrap: Callable[[Any], Callable[..., Any]]) -> Row:
    """The row of somebody's own factory: other code in its file is another version."""
    try:
        module, found = lazy.named(place)
        wrap(found)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise Mistakes([f"{what} {place!r}: {one_line(error)}"]) from error
    files = {module.__file__, inspect.getsourcefile(inspect.unwrap(getattr(found, "func", found)))} - {None}
    source = digest(" ".join(sorted(digest(Path(str(file)).read_bytes()) for file in files)))
    return Row(place, version=source, wrap=wrap)


def _rows(module: str, names: str, **options: Any) -> dict[str, Row]:
    return {name: Row(f"{module}:{name}", **options) for name in names.split()}


def _table(
    what: str, rows: Mapping[str, Row], offered: str, allowed: ranges.Ranges, wrap: Any = None, **more: Any
) -> Table:
    return Table(what, lambda: rows, frozenset(offered.split()), allowed, wrap, **more)


@cache
def _models() -> dict[str, Row]:
    from transferjax.models.zoo import ZOO

    return {name: Row(f"transferjax.models.zoo:ZOO[{name}]") for name in ZOO}


ATTACKS = _table(
    "attack",
    {
        **_rows(
            "transferjax.attacks",
            "fgsm bim pgd mi_fgsm ni_fgsm emi_fgsm dim tim sim si_ni_fgsm admix ssa bsr vmi_fgsm "
            "vni_fgsm gra pgn gnp rap tpa logit svre cwa lgv noise sia anda decowa ops mumodig mef fgsra "
            "ada_ea smer logit_margin s4st awt l2t po_trip ilpd cfm everywhere tgr pna",
            free=("chunk",),
        ),
        **_rows("transferjax.attacks", "pi_fgsm self_universality", version=2),
        **_rows(
            "transferjax.attacks",
            "fia bfa att apgd apgd_t fab square auto_attack",
            free=("chunk",),
            alone=True,
        ),
    },
    "eps norm targeted pool",
    vocabulary.RANGES,
    recipe,
    elsewhere=vocabulary.named_elsewhere,
)
PARTS = _table(
    "mechanism part",
    {
        **_rows(
            "transferjax.training.augment",
            "mixup cutmix cutout label_smoothing adversarial distilled",
            slot="transforms",
        ),
        **_rows("transferjax.training.penalties", "input_gradient jacobian score_matching", slot="penalties"),
        **_rows("transferjax.training.rules", "sam asam gsam agsam look_sam esam gnp er", slot="rules"),
        **_rows("transferjax.training.rules", "msam", slot="rules", version=2),
        **_rows("transferjax.training.averaging", "swa ema", slot="averages"),
    },
    "axis_name teacher total_steps steps_per_epoch",
    ranges.PARTS,
)
SLOTS = ("transforms", "penalties", "rules", "averages")
MODELS = Table(
    "model", _models, frozenset(["num_classes", "axis_name", "dtype", "parent", "name"]), ranges.MODELS
)
AUGMENTS = _table("augmentation", _rows("transferjax.training.augment", "crop_flip"), "", ranges.AUGMENTS)
SCHEDULES = _table(
    "schedule",
    _rows("transferjax.study.networks", "warmup_cosine triangular step_decay constant"),
    "updates_per_epoch epochs",
    ranges.SCHEDULES,
)
OPTIMIZERS = _table(
    "optimizer", _rows("transferjax.study.networks", "sgd adam"), "learning_rate", ranges.OPTIMIZERS
)
PREPROCESSING = _table(
    "preprocessing",
    {
        **_rows("transferjax.study.resolve", "normalize"),
        "preprocessing": Row("transferjax.predicts.preprocessing:Preprocessing"),
    },
    "predict layout classes",
    ranges.PREPROCESSING,
)
MEASURES = _table(
    "measure",
    {
        "smoothness": Row("transferjax.study.measures:smoothness", version=2, column="input-Hessian λ₁"),
        "similarity": Row("transferjax.study.measures:similarity", column="gradient similarity"),
        "gradient_norm": Row("transferjax.study.measures:gradient_norm", column="‖∇ₓ ℓ‖₂"),
        "weight_eigenvalue": Row("transferjax.study.measures:weight_eigenvalue", column="weight-Hessian λ₁"),
        "augmentation_shift": Row("transferjax.study.theory:augmentation_shift", version=2, column="shift"),
        "bound": Row("transferjax.study.theory:bound", column="Theorem 1"),
        "transfer_loss": Row("transferjax.study.theory:transfer_loss", free=("chunk",), column="Theorem 3.1"),
        "distortion": Row("transferjax.study.measures:distortion", column="L2 and SSIM"),
        "lpips": Row(
            "transferjax.study.measures:lpips",
            free=("backbone", "linear"),
            files=(
                ("backbone", "torchvision's weights of alexnet, vgg16 or squeezenet1_1"),
                ("linear", "lpips/weights/v0.1/<net>.pth of the package lpips (pip download lpips)"),
            ),
            column="LPIPS",
        ),
        "flatness": Row("transferjax.study.measures:flatness", column="E‖∇ₓ ℓ‖₂"),
        "loss_surface": Row("transferjax.study.measures:loss_surface", column="loss surface"),
        "attention": Row("transferjax.study.measures:attention", column="Grad-CAM"),
        "weight_trace": Row("transferjax.study.measures:weight_trace", column="weight-Hessian trace"),
    },
    "context spec specs",
    ranges.MEASURES,
)
APPLY = _table(
    "predict wrapper",
    {
        **_rows("transferjax.defences", "bit_depth jpeg feature_distillation resize_and_pad random_affine"),
        **_rows("transferjax.defences", "nips_r3 smoothed purified"),
        **_rows("transferjax.predicts", "skip_gradient", version=2),
        **_rows("transferjax.predicts", "linear_backprop ghost_skips ghost_dropout tgr pna att"),
        **_rows("transferjax.predicts", "weight_scaling mean_logits mean_probabilities swag_mean"),
        **_rows("transferjax.models", "select_classes"),
        **_rows("transferjax.study.resolve", "resized"),
        "nrp": Row(
            "transferjax.study.nets:published_nrp",
            free=("weights",),
            files=(("weights", "NRP.pth of github.com/Muzammal-Naseer/NRP"),),
        ),
        "diffpure": Row(
            "transferjax.study.nets:published_diffpure",
            free=("weights",),
            files=(("weights", "256x256_diffusion_uncond.pt of github.com/openai/guided-diffusion"),),
        ),
    },
    "predict purifier key",
    ranges.APPLY,
)
DERIVED = _table(
    "derived data",
    {
        **_rows("transferjax.study.derived", "robust nonrobust", version=3),
        **_rows("transferjax.study.derived", "rand det"),
    },
    "context spec",
    ranges.DERIVED,
)
PURIFIERS = _table(
    "purifier",
    {
        **_rows("transferjax.study.nets", "nrp"),
        **_rows("transferjax.study.nets", "comdefend hgd", version=2),
    },
    "",
    ranges.PURIFIERS,
)
PIECES = _table(
    "piece",
    {
        **_rows(
            "transferjax.attacks.rules",
            "through average probe mix lookahead variance_tuning relevance enhanced_momentum "
            "reverse_perturbation uniform_noise integrated outwards",
            free=("chunk",),
        ),
        **_rows("transferjax.attacks.inputs", "diversity spectrum block_shuffle lower_ends"),
        **_rows("transferjax.attacks.blockwise", "structures scaled_blocks kept_blocks"),
        **_rows("transferjax.attacks.warps", "compositions"),
        **_rows(
            "transferjax.attacks.samplers",
            "constrained_warps inverted_points patch_out paced_patch_out",
            free=("chunk",),
        ),
        **_rows("transferjax.attacks.ensembles", "one_member fused_logits"),
        **_rows("transferjax.attacks.tuning", "tuned_weights"),
        **_rows("transferjax.attacks.updates", "smooth sign"),
        **_rows("transferjax.attacks.projections", "l2_nearest"),
    },
    "eps norm",
    ranges.PIECES,
)
"""What stands in an attack's options: rules, inputs, ensembles, projections."""


def check_predicts(table: Table, call: Call, count: int) -> None:
    """Whether a row's factory is one around so many predicts.

    Raises:
        ValueError: it takes fewer or more.
    """
    places = list(inspect.signature(table.row(call.name).factory).parameters.values())
    if any(place.kind is place.VAR_POSITIONAL for place in places):
        return
    takes = [place.name for place in places if place.name in ("predict", "purifier")]
    if len(takes) != count:
        raise ValueError(f"{call.name} stands around {' and '.join(takes)}; `of` names {count}")


def check_surrogates(call: Call, count: int) -> None:
    """Whether an attack takes so many surrogates.

    Raises:
        ValueError: several, of an attack of one.
    """
    if count > 1 and ATTACKS.row(call.name).alone:
        raise ValueError(f"{call.name} takes one surrogate, not {count}: put `mean_logits` around them")


def attack(given: Any, eps: float, norm: str, pool: np.ndarray | None = None, **options: Any) -> Recipe:
    """An attack by its name, or of one's own factory.

    Args:
        given: a row of the attacks, `package.module:name`, `file.py:name`, or a function
            `eps, **options -> attack`.
        eps, norm: the budget; a factory without a norm is one of L∞.
        pool: uint8 images, for attacks that mix others in.
        options: of the attack.

    Raises:
        ValueError: what is no attack, or a value that an option may not have.
        TypeError: an option that it does not have.
    """
    factory = ATTACKS.row(given).factory if isinstance(given, str) else recipe(given)
    known = inspect.signature(factory).parameters
    if norm != "linf" or "norm" in known:
        options["norm"] = norm
    if pool is not None and "pool" in known:
        options.setdefault("pool", to_float(jnp.asarray(pool)))
    return factory(eps=eps, **options)


POOL = 256
"""How many images of the attacked data Admix takes its partners from."""


def accepts(table: Table, call: Call, name: str) -> bool:
    """Whether a row's factory has that parameter."""
    return name in inspect.signature(table.row(call.name).factory).parameters


def make(table: Table, call: Call, *predicts: Any, **offered: Any) -> Any:
    """`factory(*predicts, **options)`, and of `offered` what the factory has a parameter for."""
    extra = {name: value for name, value in offered.items() if accepts(table, call, name)}
    arguments = {name: _made(value, offered) for name, value in call.arguments.items()}
    return table.row(call.name).factory(*predicts, **arguments, **extra)


def _made(value: Any, offered: Mapping[str, Any]) -> Any:
    """What stands in options; a piece is offered what the attack around it is."""
    if isinstance(value, Call):
        return make(PIECES, value, **{name: offered[name] for name in PIECES.offered & offered.keys()})
    return tuple(_made(entry, offered) for entry in value) if isinstance(value, tuple) else value


def _resolved(parameter: inspect.Parameter) -> inspect.Parameter:
    """With its type; recipes write those of the options that they share as text."""
    if not isinstance(parameter.annotation, str):
        return parameter
    return parameter.replace(annotation=_shared_types().get(parameter.name, parameter.empty))


@cache
def _shared_types() -> dict[str, Any]:
    from transferjax.attacks.recipe import Momentum

    return get_type_hints(Momentum)
