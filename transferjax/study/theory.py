"""Measures of pairs that test the S&P 2024 paper's theory: Hypothesis 1 and Theorem 1."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import data, metrics
from transferjax.devices import mapped
from transferjax.losses import one_hot
from transferjax.metrics.shift import frechet_distance, off_subspace, principal_subspace
from transferjax.models import is_piecewise_linear
from transferjax.random import fold_in
from transferjax.study import registry
from transferjax.study.resolve import Context
from transferjax.study.specs import Adversarial, Call, Measure, Network
from transferjax.typing import Array, Batch, Predict

Arrays = dict[str, np.ndarray]
STATISTICS = ("frechet", "off_subspace")


def _pair(spec: Measure) -> Any:
    """The two networks that are measured.

    Raises:
        ValueError: another number of them.
    """
    if len(spec.of) != 2:
        raise ValueError(f"{spec.call.name} is of two networks; got {len(spec.of)}")
    return spec.of


MIXED = 128
"""Images at most that the transforms of a training see together, and may mix: no setting changes it."""


def augmentation_shift(
    context: Context, specs: Sequence[Measure], statistic: str = "frechet", variance: float = 0.9
) -> Iterator[tuple[Measure, Arrays]]:
    """How far the first network's training moves the data, in the second one's features, `[1]`.

    The transforms of its training (mixup, cutmix, cutout, adversarial examples) are applied once to the data;
    features are the means of the other network's last map.

    Args:
        statistic: `"frechet"`, the distance of the features to those of the data as they are (see
            `metrics.frechet_distance`); `"off_subspace"`, the share of their squared distance from the mean
            that lies outside of the directions which hold `variance` of the clean features'.
        variance: share of the clean features' variance that is inside.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Hypothesis 1, which speaks of a
    shift of the distribution, without a measure.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic={statistic!r}: expected one of {', '.join(STATISTICS)}")
    if not 0 < variance < 1:
        raise ValueError(f"variance={variance}: expected a share between 0 and 1")
    for spec in specs:
        own, reference = _pair(spec)
        clean, moved = _features(context, own, reference, spec)
        found = frechet_distance(moved, clean) if statistic == "frechet" else _outside(moved, clean, variance)
        yield spec, {"values": np.asarray(found, np.float32).reshape(1)}


def _outside(moved: Array, clean: Array, variance: float) -> Array:
    spread = jnp.linalg.svd(clean - clean.mean(0), compute_uv=False) ** 2
    held = np.cumsum(np.asarray(spread)) / max(float(spread.sum()), 1e-30)
    subspace = principal_subspace(clean, min(int((held < variance).sum()) + 1, len(held)))
    total = ((moved - subspace.mean) ** 2).sum()
    return (off_subspace(moved, subspace) ** 2).sum() / jnp.maximum(total, 1e-30)


def _features(context: Context, own: Any, reference: Any, spec: Measure) -> tuple[Array, Array]:
    """Features of the data as they are and as the network's training makes them, `[N, D]` each."""
    if not isinstance(own, Network):
        raise ValueError(
            f"{spec.call.name} asks how a network was trained; {type(own).__name__} was not here"
        )
    transforms = [registry.make(registry.PARTS, part, axis_name=None) for part in _moving(own)]
    predict, through = context.predict(reference), context.predict(own)
    dataset = context.dataset(spec.data)

    def features(
        number: Array, examples: data.Examples, predict: Predict, own: Predict
    ) -> tuple[Array, Array]:
        images = data.to_float(examples.images)
        batch = Batch(images, one_hot(examples.labels, dataset.num_classes))
        key = fold_in(jax.random.key(0), number)
        for i, transform in enumerate(transforms):
            batch = transform(fold_in(key, i), batch, own)
        maps = [metrics.activations(predict, x) for x in (images, batch.images)]
        clean, moved = (each.mean((1, 2)) for each in maps)
        return clean, moved

    program = ("shift", dataset.num_classes, *(part.key for part in _moving(own)))
    both = context.cached(program, lambda: jax.jit(features), 0)
    together = data.even_batch_size(len(dataset), MIXED)  # a batch that is filled up would mix what fills it
    parts = [
        both(jnp.asarray(number), batch, predict, through)
        for number, batch in enumerate(data.eval_batches(dataset, together))
    ]
    clean, moved = (jnp.concatenate(part)[: len(dataset)] for part in zip(*parts, strict=True))
    return clean, moved


def _moving(own: Network) -> list[Call]:
    """What of its mechanism changes a batch, crops and flips aside."""
    return [part for part in own.parts if registry.PARTS.row(part.name).slot == "transforms"]


def bound(context: Context, specs: Sequence[Measure]) -> Iterator[tuple[Measure, Arrays]]:
    """Every term of Theorem 1 for attacked images, each `[1]`; see `metrics.transferability_bound`.

    σ is estimated from below, by the largest |λ| of the images themselves. `proposition_1` is the largest
    `‖∇ₓ ℓ‖₂ / (√2 ‖J‖_F)` of the first network, at most 1.

    Reference: Zhang et al., "Why Does Little Robustness Help?", S&P 2024, Theorem 1, Proposition 1.
    """
    compiled = jax.jit(_terms)
    curvature = cache(
        lambda net, images: _curvature(context, net, context.dataset(images))
    )  # one for all pairs
    for spec in specs:
        networks = _pair(spec)
        images = _attacked(spec)
        clean, attacked = (context.dataset(of) for of in (images.data, images))
        curvatures = [curvature(net, images.data) for net in networks]
        found = compiled(
            *map(context.predict, networks),
            jnp.asarray(clean.images),
            jnp.asarray(attacked.images),
            jnp.asarray(clean.labels),
            *curvatures,
        )
        yield spec, {name: np.asarray(value, np.float32).reshape(1) for name, value in found.items()}


def transfer_loss(
    context: Context, specs: Sequence[Measure], c: float = 1.0, chunk: int | None = 16
) -> Iterator[tuple[Measure, Arrays]]:
    """TPA's Theorem 3.1 of two networks on attacked images, each term `[N]`: `metrics.transfer_loss_bound`.

    A surrogate that is not piecewise linear has the Gauss-Newton part's second-order component.

    Args:
        c: as there.
        chunk: how many of the classes' pullbacks run at once; None for all. Bounds memory.
    """
    compiled = context.cached(
        ("transfer loss", c, chunk),
        lambda: jax.jit(partial(metrics.transfer_loss_bound, c=c, chunk=chunk), static_argnames="part"),
        0,
    )
    for spec in specs:
        surrogate, target = map(context.predict, _pair(spec))
        attacked = context.dataset(_attacked(spec))
        clean = context.dataset(spec.data.data)  # type: ignore[union-attr]
        linear = is_piecewise_linear(surrogate, data.to_float(jnp.asarray(clean.images[:1])))
        part, found = "hessian" if linear else "gauss_newton", []
        size = data.even_batch_size(len(clean), context.batch_size)
        for before, after in zip(
            data.eval_batches(clean, size), data.eval_batches(attacked, size), strict=True
        ):
            images = (data.to_float(batch.images) for batch in (before, after))
            found.append(jax.device_get(compiled(surrogate, target, *images, before.labels, part=part)))
        terms = {
            name: np.concatenate([getattr(terms, name) for terms in found])[: len(clean)]
            for name in found[0]._fields
        }
        yield spec, terms


def _attacked(spec: Measure) -> Adversarial:
    """What is measured, if it is attacked images.

    Raises:
        ValueError: clean ones.
    """
    if not isinstance(spec.data, Adversarial):
        raise ValueError(f"{spec.call.name} is of attacked images; got {type(spec.data).__name__}")
    return spec.data


def _curvature(context: Context, net: Any, clean: data.Dataset) -> Array:
    """The largest |λ| of the input Hessian over the images."""

    def values(examples: data.Examples, predict: Predict) -> Array:
        return metrics.input_hessian_eigenvalues(predict, data.to_float(examples.images), examples.labels)

    program: Callable[..., Array] = context.cached("largest curvature", lambda: mapped(values), 0)
    return jnp.abs(context.each(program, clean, context.predict(net), "curvature")).max()


def _terms(
    surrogate: Predict,
    target: Predict,
    images: Array,
    attacked: Array,
    labels: Array,
    smoothness_f: Array,
    smoothness_g: Array,
) -> dict[str, Array]:
    clean, adversarial = data.to_float(images), data.to_float(attacked)
    found = metrics.transferability_bound(
        surrogate, target, clean, adversarial, labels, smoothness_f, smoothness_g
    )
    slopes = metrics.gradient_norm(surrogate, clean, labels)
    steepest = jnp.sqrt(2.0) * metrics.jacobian_norm(surrogate, clean)
    ratio = (slopes / jnp.maximum(steepest, jnp.finfo(slopes.dtype).tiny)).max()
    smooth = {"sigma_f": smoothness_f, "sigma_g": smoothness_g}
    return {**found._asdict(), **smooth, "proposition_1": ratio}
