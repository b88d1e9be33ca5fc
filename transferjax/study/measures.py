"""The measures of a study, `(context, specs, **options) -> (spec, arrays)`: per image or per network."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import data, metrics, models
from transferjax.study.networks import module_of
from transferjax.study.resolve import Context
from transferjax.study.specs import Measure, Network
from transferjax.typing import Array, Predict, PyTree

Arrays = dict[str, np.ndarray]


def _per_image(
    context: Context, specs: Sequence[Measure], measure: Callable[[Predict, Array, Array], Array]
) -> Iterator[tuple[Measure, Arrays]]:
    """A function of one network, image by image; compiled once for all networks of one structure."""

    def of_examples(examples: data.Examples, predict: Predict) -> Array:
        return measure(predict, data.to_float(examples.images), examples.labels)

    call = specs[0].call
    compiled = context.cached(("measure", call.key), lambda: context.mapped(of_examples), 0)
    for spec in specs:
        predict = context.predict(spec.of[0])
        yield spec, {"values": context.each(compiled, context.dataset(spec.data), predict, call.name)}


def smoothness(
    context: Context, specs: Sequence[Measure], k: int = 1, method: str = "auto"
) -> Iterator[tuple[Measure, Arrays]]:
    """The k largest eigenvalues of the input Hessian, `[N, k]`; see `metrics.input_hessian_eigenvalues`."""
    return _per_image(context, specs, partial(metrics.input_hessian_eigenvalues, k=k, method=method))


def gradient_norm(context: Context, specs: Sequence[Measure]) -> Iterator[tuple[Measure, Arrays]]:
    """`‖∇ₓ ℓ‖₂` `[N]`."""
    return _per_image(context, specs, metrics.gradient_norm)


@jax.jit
def _gradient(predict: Predict, examples: data.Examples) -> Array:
    return metrics.input_gradient(predict, data.to_float(examples.images), examples.labels)


_cosine = jax.jit(metrics.cosine_similarity)


def similarity(context: Context, specs: Sequence[Measure]) -> Iterator[tuple[Measure, Arrays]]:
    """Cosine of two networks' input gradients, `[N]`; each network's gradients are computed once."""
    networks = {net.key: context.predict(net) for spec in specs for net in spec.of}
    dataset = context.dataset(specs[0].data)
    parts: dict[str, list[np.ndarray]] = {spec.key: [] for spec in specs}
    batch_size = min(context.batch_size, len(dataset))
    for number, batch in enumerate(data.eval_batches(dataset, batch_size)):
        gradients = {key: _gradient(predict, batch) for key, predict in networks.items()}
        for spec in specs:
            a, b = (gradients[net.key] for net in spec.of)
            parts[spec.key].append(np.asarray(_cosine(a, b)))
        context.progress("similarity", min((number + 1) * batch_size, len(dataset)), len(dataset))
    for spec in specs:
        yield spec, {"values": np.concatenate(parts[spec.key])[: len(dataset)]}


def _weights(
    context: Context, spec: Measure
) -> tuple[Callable[[PyTree, Array], Array], PyTree, Array, Array]:
    """(params, images) -> logits of a network, its params, and the data."""
    net = spec.of[0]
    if not isinstance(net, Network):
        raise ValueError(
            f"{spec.call.name} looks at the weights of a trained network; got {type(net).__name__}"
        )
    variables, dataset = context.variables(net), context.dataset(spec.data)
    module = module_of(net, context.num_classes(net))

    def apply(params: PyTree, images: Array) -> Array:
        predict = models.predictor(module, variables | {"params": params}, net.mean, net.std)
        return predict(data.to_float(images))

    return apply, variables["params"], jnp.asarray(dataset.images), jnp.asarray(dataset.labels)


def weight_eigenvalue(
    context: Context, specs: Sequence[Measure], k: int = 1
) -> Iterator[tuple[Measure, Arrays]]:
    """The k largest eigenvalues `[k]` of the loss's Hessian over the weights."""
    for spec in specs:
        apply, params, images, labels = _weights(context, spec)

        @jax.jit
        def top(params: PyTree, images: Array, labels: Array, apply: Callable = apply) -> Array:
            matrix = metrics.weight_matvec(apply, params, images, labels, chunk=_chunk(context, len(images)))
            key = jax.random.key(0)
            return metrics.top_eigenvalues(key, matrix.product, matrix.size, k=k, start=matrix.start).values

        yield spec, {"values": np.asarray(top(params, images, labels))}


def weight_trace(context: Context, specs: Sequence[Measure]) -> Iterator[tuple[Measure, Arrays]]:
    """The trace `[1]` of the loss's Hessian over the weights of a ReLU net, exact."""
    for spec in specs:
        apply, params, images, _ = _weights(context, spec)
        trace = jax.jit(partial(metrics.weight_trace, apply, chunk=_chunk(context, len(images))))
        yield spec, {"values": np.asarray(trace(params, images)).reshape(1)}


def _chunk(context: Context, count: int) -> int:
    """Images at once: the largest divisor that fits a batch."""
    return max(d for d in range(1, min(context.batch_size, count) + 1) if count % d == 0)
