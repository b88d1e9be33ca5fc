"""Targeted attacks: which target, and losses made for reaching one. All minimize their loss."""

from typing import Any, Unpack, cast

import jax
import jax.numpy as jnp

from transferjax.attacks import blockwise, inputs
from transferjax.attacks.ascend import logits_of
from transferjax.attacks.builders import given, smoothed, with_momentum
from transferjax.attacks.recipe import Momentum, recipe
from transferjax.attacks.rules import average
from transferjax.checks import check_labels
from transferjax.losses import cross_entropy, of_class, probabilities
from transferjax.norms import cosine, unit
from transferjax.predicts.snapshots import nets_of, of_each
from transferjax.random import fold_in, per_example
from transferjax.typing import Array, Attack, Key, Loss, Predict


@recipe(targeted=True, loss="logit")
def logit(
    eps: float,
    steps: int = 300,
    *,
    rate: float = 0.9,
    prob: float = 0.7,
    kernel_size: int = 5,
    **options: Unpack[Momentum],
) -> Attack:
    """The logit loss `-z_target` with DI, TI and MI, many steps: the strong simple targeted attack.

    Args:
        step_size: length of one step in the same norm; `eps / 8` if None.

    Reference: Zhao et al., "On Success and Simplicity", NeurIPS 2021: 300 steps of 2/255 at
    ε = 16/255, DI with probability 0.7, a kernel of 5.
    """
    own = smoothed(kernel_size), average(inputs.diversity(rate, prob))
    options["step_size"] = given(options["step_size"], eps / 8)
    return with_momentum(*own, eps=eps, steps=steps, **options)


CALIBRATIONS = ("margin", "temperature")


def calibrated(variant: str, tau: float) -> Loss:
    """Cross-entropy of logits that a sure net leaves room: divided by their top margin, or by τ.

    `CE(z / (z_π1 - z_π2))`, through whose margin no gradient passes ("margin"), or `CE(z / τ)`
    ("temperature").

    Reference: Weng et al., "Logit Margin Matters", TIFS 2023.
    """
    if variant not in CALIBRATIONS:
        raise ValueError(f"variant must be one of {', '.join(CALIBRATIONS)}; got {variant!r}")

    def loss(logits: Array, targets: Array) -> Array:
        if variant == "temperature":
            return cross_entropy(logits / tau, targets)
        top = jax.lax.top_k(jax.lax.stop_gradient(logits), 2)[0]
        gap = top[:, :1] - top[:, 1:]
        return cross_entropy(logits / jnp.where(gap > 0, gap, 1), targets)

    return loss


@recipe(targeted=True, without=("loss",))
def logit_margin(
    eps: float,
    steps: int = 300,
    *,
    variant: str = "margin",
    tau: float = 5.0,
    rate: float = 1.1,
    prob: float = 0.7,
    kernel_size: int = 5,
    **options: Unpack[Momentum],
) -> Attack:
    """Logit calibration with DI, TI and MI: cross-entropy that does not saturate; see `calibrated`.

    Args:
        step_size: length of one step in the same norm; `eps / 8` if None.
        variant: "margin", or "temperature" with τ.
        tau: τ.
        rate, prob: of DI, which comes back to the image's size.

    Reference: Weng et al., TIFS 2023: 300 steps of 2/255 at ε = 16/255, τ = 5, a kernel of 5; rate and
    probability are TransferAttack's.
    """
    options["step_size"] = given(options["step_size"], eps / 8)
    own = smoothed(kernel_size), average(inputs.diversity(rate, prob, resize_back=True))
    return with_momentum(*own, eps=eps, steps=steps, **options | {"loss": calibrated(variant, tau)})


@recipe(targeted=True, without=("loss",))
def s4st(
    eps: float,
    steps: int = 900,
    *,
    samples: int = 1,
    rate: float = 1.9,
    prob: float = 0.9,
    kernel_size: int = 5,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """S4ST: one of SIA's operations on the whole image, then each block resized by itself; with TI and MI.

    The loss is that of `logit_margin`.

    Args:
        step_size: length of one step in the same norm; `eps / 8` if None.
        samples: transformed copies at each step.
        rate: blocks are resized by 1/rate to rate.
        prob: of resizing a block.

    Reference: Liu et al., "S4ST: A Strong, Self-transferable, faSt, and Simple Scale Transformation for
    Transferable Targeted Attack", 2024: 900 steps of 2/255 at ε = 16/255, one copy, r = 1.9, p = 0.9, 2 x 3
    blocks.
    """
    options["step_size"] = given(options["step_size"], eps / 8)
    whole = blockwise.structures(1, operations=tuple(n for n in blockwise.STRUCTURES if n != "resize"))
    scaled = inputs.in_turn(whole, blockwise.scaled_blocks(2, 3, rate, prob))
    own = smoothed(kernel_size), average(scaled, samples, chunk=chunk)
    return with_momentum(*own, eps=eps, steps=steps, **options | {"loss": calibrated("margin", 1.0)})


def poincare(logits: Array, targets: Array) -> Array:
    """Poincaré distance of `z / ‖z‖₁` to the (slightly shrunk) one-hot target, `[B]`.

    `arccosh(1 + 2 ‖u - v‖² / ((1 - ‖u‖²)(1 - ‖v‖²)))`

    Reference: Li et al., "Towards Transferable Targeted Attack", CVPR 2020.
    """
    norm = jnp.abs(logits).sum(-1, keepdims=True)
    u = logits / jnp.where(norm > 0, norm, 1)
    v = jnp.maximum(probabilities(logits, targets) - 1e-5, 0)
    squared = lambda a: jnp.sum(a * a, -1)  # noqa: E731
    room = jnp.maximum((1 - squared(u)) * (1 - squared(v)), 1e-12)
    return jnp.arccosh(1 + jnp.maximum(2 * squared(u - v) / room, 1e-7))


def triplet(logits: Array, targets: Array, truth: Array, margin: float = 0.007) -> Array:
    """`(D(z, target) - D(z, truth) + margin)₊` with `D(z, k) = 1 - |z_k| / ‖z‖₂`, `[B]`.

    Reference: Li et al., CVPR 2020.
    """
    for name, classes in (("targets", targets), ("truth", truth)):
        check_labels(classes, len(logits), name=name)
    direction = jnp.abs(unit(logits, -1))
    return jnp.maximum(of_class(direction, truth) - of_class(direction, targets) + margin, 0)


@recipe(targeted=True, without=("loss",))
def po_trip(
    eps: float,
    steps: int = 20,
    *,
    weight: float = 0.01,
    margin: float = 0.007,
    **options: Unpack[Momentum],
) -> Attack:
    """Poincaré distance to the target and a triplet with the true class, which is the net's clean prediction.

    Of several nets it is that of their mean logits.

    Reference: Li et al., CVPR 2020, algorithm 1: 20 steps of `eps / steps`.
    """

    def attack(key: Key, predict: Predict, images: Array, targets: Array, *, info: bool = False) -> Any:
        keys = fold_in(per_example(key, len(images)), steps + 1)  # the loop folds in 0 … steps
        drawn = [logits_of(net, fold_in(keys, i), images) for i, net in enumerate(nets_of(predict))]
        truth = sum(drawn[1:], drawn[0]).argmax(-1)

        def loss(logits: Array, targets: Array) -> Array:
            return poincare(logits, targets) + weight * triplet(logits, targets, truth, margin)

        run = with_momentum(eps=eps, steps=steps, **options | {"loss": loss})
        return cast(Any, run)(key, predict, images, targets, info=info)

    return attack


def _crop(key: Key, x: Array, low: float, high: float) -> Array:
    """A random part of `x [H, W, C]`, of sides of up to 4 : 3, resized (bilinear) to the size of x."""
    area, form, row, column = jax.random.split(key, 4)
    share = jax.random.uniform(area, minval=low, maxval=high)
    ratio = jnp.exp(jax.random.uniform(form, minval=jnp.log(3 / 4), maxval=jnp.log(4 / 3)))
    matrices = []
    for part, side, size in zip((row, column), (share / ratio, share * ratio), x.shape[:2], strict=True):
        long = jnp.minimum(1, jnp.sqrt(side))
        start = jax.random.uniform(part) * (1 - long) * size
        place = jnp.clip(start + (jnp.arange(size) + 0.5) * long - 0.5, 0, size - 1)
        matrices.append(jnp.maximum(0, 1 - jnp.abs(place[:, None] - jnp.arange(size))).astype(x.dtype))
    return jnp.einsum("ih,hwc,jw->ijc", matrices[0], x, matrices[1])


@recipe(targeted=True, without=("loss",))
def self_universality(
    eps: float,
    steps: int = 300,
    *,
    layer: str,
    weight: float = 1e-3,
    low: float = 0.1,
    high: float = 0.1,
    **options: Unpack[Momentum],
) -> Attack:
    """`(CE(x + δ) + CE(crop + δ))/2 - weight · cos(their features)`: a δ that works on any part of x.

    The crop is of the clean x, made as large; all of δ is added to it.

    Args:
        step_size: length of one step in the same norm; `eps / 8` if None.
        layer: the end of the path of the Flax module whose features are compared.
        weight: of the features' cosine.
        low, high: share of the image's area in a crop.
    The paper adds DI and TI (`inner_rules`: both copies then have the same draw).

    Reference: Wei et al., "Enhancing the Self-Universality for Transferable Targeted Attacks", CVPR 2023:
    300 steps of 2/255 at ε = 16/255, crops of a tenth.
    """
    from transferjax.predicts.modules import with_features  # with Flax, which no other attack needs

    options["step_size"] = given(options["step_size"], eps / 8)

    def attack(key: Key, predict: Predict, images: Array, targets: Array) -> Array:
        def paired(keys: Key, x: Array, _: Array | int) -> Array:
            part = jax.vmap(lambda key, image: _crop(key, image, low, high))(keys, images)
            return jnp.concatenate([x, part + (x - images)], -1)

        def both(net: Predict, pair: Array) -> Array:
            is_pair = pair.shape[-1] == 2 * images.shape[-1]  # who asks for shapes alone shows an image
            parts = jnp.split(pair, 2, -1) if is_pair else (pair, pair)
            seen = [with_features(net, layer, x) for x in parts]
            (logits, features), (part_logits, part_features) = seen
            alike = cosine(features, part_features)
            return jnp.concatenate([logits, part_logits, alike[:, None].astype(logits.dtype)], -1)

        def loss(outputs: Array, targets: Array) -> Array:
            losses = [cross_entropy(logits, targets) for logits in jnp.split(outputs[:, :-1], 2, -1)]
            return (losses[0] + losses[1]) / 2 - weight * outputs[:, -1]

        run = with_momentum(average(paired), eps=eps, steps=steps, **options | {"loss": loss})
        return run(key, of_each(predict, lambda net: jax.tree_util.Partial(both, net)), images, targets)

    return attack
