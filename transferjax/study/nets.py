"""Which Flax module a spec means: networks by their architecture, purifiers by their row."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transferjax import attacks, models
from transferjax.defences import (
    NRP,
    ComDefend,
    Denoiser,
    DiffusionUNet,
    diffpure,
    noise_predictor,
    purified,
)
from transferjax.defences.purifier_training import (
    PurifierLoss,
    guided_loss,
    reconstruction_loss,
    self_supervised_loss,
)
from transferjax.models import Net
from transferjax.study import registry
from transferjax.study.content import check_file
from transferjax.study.specs import Network, Pretrained, Purifier, Training
from transferjax.typing import Key, Predict, PyTree


def module_of(spec: Network | Pretrained, num_classes: int, **options: Any) -> models.Net:
    """The Flax module of a network."""
    return models.build(spec.model.name, num_classes, **spec.model.arguments, **options)


def predict_with(spec: Network | Pretrained, module: models.Net, variables: PyTree) -> Predict:
    """A network in evaluation mode, with any weights."""
    plain = partial(models.predictor, module, variables)
    if isinstance(spec, Network):
        return plain(mean=spec.mean, std=spec.std)
    predict = registry.make(registry.PREPROCESSING, spec.preprocessing)(plain())
    return models.select_classes(predict, spec.label_map) if spec.label_map else predict


class PurifierRow(NamedTuple):
    """A purifier's net, its loss given the classifier, what else its step takes, and whether it needs one."""

    net: Net
    loss: Callable[[Any], PurifierLoss]
    terms: dict[str, Any]
    guided: bool = True


def comdefend(features: int = 64, code_penalty: float = 1e-4) -> PurifierRow:
    """ComDefend: learns to give images back through a binary code.

    Args:
        features: width, as a share of the paper's at 64.
        code_penalty: weight of the code's mean square.
    """
    widths = tuple(max(features * width // 64, 1) for width in (16, 32, 64, 128, 256, 128, 64, 32))
    terms = {"code_penalty": code_penalty}
    return PurifierRow(ComDefend(widths=widths), lambda predict: reconstruction_loss(), terms, guided=False)


def hgd(features: int = 64, eps: float = 8 / 255) -> PurifierRow:
    """The high-level guided denoiser: attacked images shall look clean to the classifier.

    Args:
        features: of the first stage; the others are 2 and 4 times as wide.
        eps: L∞ budget of the FGSM that it trains against.
    """
    net = Denoiser(widths=tuple(features * width for width in (1, 2, 4, 4, 4)))
    return PurifierRow(net, lambda predict: guided_loss(predict, attacks.fgsm(eps)), {})


def nrp(features: int = 64, blocks: int = 23, layer: str = "layer3.0", eps: float = 8 / 255) -> PurifierRow:
    """NRP: learns without labels to undo the farthest features in a ball, before a critic, a small VGG.

    Args:
        features: width of the purifier's and the critic's first layers.
        blocks: residual-in-residual blocks.
        layer: the end of the path of the classifier's module whose features count.
        eps: L∞ radius of the ball.
    """
    critic = models.build("cifar_vgg16", num_classes=1, blocks=(1, 1, 1), width=features)
    net = NRP(features=features, growth=max(features // 2, 1), blocks=blocks)
    return PurifierRow(net, lambda predict: self_supervised_loss(predict, layer, eps), {"critic": critic})


def published_nrp(
    predict: Predict, features: int = 64, blocks: int = 23, *, weights: str, sha256: tuple[str, ...] = ()
) -> Predict:
    """The net behind NRP with the weights that its authors published.

    Args:
        features, blocks: of the net in the file.
        weights: the file, `NRP.pth`.
        sha256: of the file, where a study has pinned it.

    Raises:
        ValueError: another file than the study named, or none of NRP's.
    """
    net = NRP(features=features, growth=max(features // 2, 1), blocks=blocks)
    return purified(predict, models.predictor(net, _published(net, weights, sha256)))


def published_diffpure(
    predict: Predict,
    key: Key,
    strength: float = 0.15,
    step: float = 1e-3,
    size: int = 256,
    width: int = 256,
    multiples: tuple[int, ...] = (1, 1, 2, 2, 4, 4),
    *,
    weights: str,
    sha256: tuple[str, ...] = (),
) -> Predict:
    """The net behind DiffPure with a published diffusion model.

    Args:
        strength, step, size: as of `defences.diffpure`.
        width, multiples: of the U-net in the file.
        weights: the file, `256x256_diffusion_uncond.pt`.
        sha256: of the file, where a study has pinned it.

    Raises:
        ValueError: another file than the study named, or none of such a net.
    """
    net = DiffusionUNet(width=width, multiples=multiples)
    noise = noise_predictor(net, _published(net, weights, sha256))
    return diffpure(predict, noise, key, strength, step, size)


def _published(net: Net, weights: str, sha256: tuple[str, ...]) -> PyTree:
    """A net's variables from a file, if it is the one that a study named."""
    for expected in sha256:
        check_file(weights, expected)
    return models.load(net, weights)


def net_of(spec: Purifier) -> Net:
    """The Flax module of a purifier."""
    return recipe_of(spec).net


def recipe_of(spec: Purifier) -> PurifierRow:
    """What a purifier's row says, with the spec's dtype.

    Raises:
        ValueError: a row that is guided by a classifier, and no `of`; or one that needs none, and has it.
    """
    recipe: PurifierRow = registry.make(registry.PURIFIERS, spec.call)
    if recipe.guided != (spec.of is not None):
        needs = (
            "is guided by a classifier: give `of`" if recipe.guided else "needs no classifier: leave `of` out"
        )
        raise ValueError(f"purifier {spec.call.name!r} {needs}")
    return recipe._replace(net=recipe.net.clone(dtype=compute_dtype(spec.training)))


def compute_dtype(training: Training) -> jnp.dtype:
    """What a training computes in.

    Raises:
        ValueError: float64 where JAX is in 32 bits and would take float32 without a word.
    """
    if training.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError("training.dtype is 'float64', and JAX computes in 32 bits: set JAX_ENABLE_X64=1")
    return jnp.dtype(training.dtype)
