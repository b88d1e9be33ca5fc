"""The measures of a study, `(context, specs, **options) -> (spec, arrays)`: per image or per network."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transferjax import data, metrics
from transferjax.devices import mapped
from transferjax.random import fold_in
from transferjax.study import content
from transferjax.study.resolve import Context, drawn
from transferjax.study.specs import Adversarial, Measure, Network, Pretrained
from transferjax.typing import Array, Predict, PyTree

Arrays = dict[str, np.ndarray]


def _per_image(
    context: Context, specs: Sequence[Measure], measure: Callable[[Predict, data.Examples], Array]
) -> Iterator[tuple[Measure, Arrays]]:
    """A function of one network, image by image; compiled once for all networks of one structure."""

    call = specs[0].call
    compiled = context.cached(
        ("measure", call.key), lambda: mapped(lambda examples, predict: measure(predict, examples)), 0
    )
    for spec in specs:
        predict = context.predict(_only(spec))
        yield spec, {"values": context.each(compiled, context.dataset(spec.data), predict, call.name)}


def _only(spec: Measure) -> Any:
    """The network that is measured.

    Raises:
        ValueError: several, of which all but one would not count.
    """
    if len(spec.of) != 1:
        raise ValueError(f"{spec.call.name} is of one network; got {len(spec.of)}")
    return spec.of[0]


def smoothness(
    context: Context, specs: Sequence[Measure], k: int = 1, method: str = "auto"
) -> Iterator[tuple[Measure, Arrays]]:
    """The k largest |λ| of the input Hessian, `[N, k]`; see `metrics.input_hessian_eigenvalues`."""

    def eigenvalues(predict: Predict, examples: data.Examples) -> Array:
        images = data.to_float(examples.images)  # one at a time: what draws, draws alike for each
        found = metrics.input_hessian_eigenvalues(predict, images, examples.labels, k=k, method=method)
        return abs(found)  # a strongly negative one is curvature too, and must not cancel

    return _per_image(context, specs, eigenvalues)


def gradient_norm(context: Context, specs: Sequence[Measure]) -> Iterator[tuple[Measure, Arrays]]:
    """`‖∇ₓ ℓ‖₂` `[N]`."""

    def norm(predict: Predict, examples: data.Examples) -> Array:
        return metrics.gradient_norm(
            drawn(predict, examples), data.to_float(examples.images), examples.labels
        )

    return _per_image(context, specs, norm)


def flatness(
    context: Context, specs: Sequence[Measure], radius: float = 16 / 255, samples: int = 16
) -> Iterator[tuple[Measure, Arrays]]:
    """`E_u ‖∇ₓ ℓ(x + u)‖₂` `[N]`, u uniform in the L∞ ball; see `metrics.expected_gradient_norm`."""

    def expected(predict: Predict, examples: data.Examples) -> Array:
        keys = fold_in(jax.random.key(0), examples.indices)
        images = data.to_float(examples.images)
        return metrics.expected_gradient_norm(
            keys, drawn(predict, examples), images, examples.labels, radius, samples
        )

    return _per_image(context, specs, expected)


def loss_surface(
    context: Context, specs: Sequence[Measure], kind: str = "uniform", extent: float = 1.0, points: int = 41
) -> Iterator[tuple[Measure, Arrays]]:
    """`ℓ` on a plane of random directions through each image, `[N, points, points]`, pixels unclamped."""

    def surface(predict: Predict, examples: data.Examples) -> Array:
        keys = fold_in(jax.random.key(0), examples.indices)
        images, grid = data.to_float(examples.images), jnp.linspace(-extent, extent, points)
        directions = metrics.random_directions(keys, images, kind)
        return metrics.loss_surface(
            drawn(predict, examples), images, examples.labels, directions, grid, clamp=False
        )

    return _per_image(context, specs, surface)


def attention(context: Context, specs: Sequence[Measure]) -> Iterator[tuple[Measure, Arrays]]:
    """Grad-CAM of the label `[N, H, W]`; see `metrics.grad_cam`."""

    def maps(predict: Predict, examples: data.Examples) -> Array:
        return metrics.grad_cam(predict, data.to_float(examples.images), examples.labels)

    return _per_image(context, specs, maps)


@jax.jit
def _gradient(predict: Predict, examples: data.Examples) -> Array:
    images = data.to_float(examples.images)
    return metrics.input_gradient(drawn(predict, examples), images, examples.labels)


_cosine = jax.jit(metrics.cosine_similarity)


def similarity(context: Context, specs: Sequence[Measure]) -> Iterator[tuple[Measure, Arrays]]:
    """Cosine of two networks' input gradients, `[N]`; each network's gradients are computed once."""
    if wrong := [spec for spec in specs if len(spec.of) != 2]:
        raise ValueError(f"similarity is of two networks; got {len(wrong[0].of)}")
    networks = {net.key: context.predict(net) for spec in specs for net in spec.of}
    dataset = context.dataset(specs[0].data)
    parts: dict[str, list[np.ndarray]] = {spec.key: [] for spec in specs}
    batch_size = data.even_batch_size(len(dataset), context.batch_size)
    for number, batch in enumerate(data.eval_batches(dataset, batch_size)):
        gradients = {key: _gradient(predict, batch) for key, predict in networks.items()}
        for spec in specs:
            a, b = (gradients[net.key] for net in spec.of)
            parts[spec.key].append(np.asarray(_cosine(a, b)))
        context.progress("similarity", min((number + 1) * batch_size, len(dataset)), len(dataset))
    for spec in specs:
        yield spec, {"values": np.concatenate(parts[spec.key])[: len(dataset)]}


def _of_weights(
    context: Context, specs: Sequence[Measure], measure: Callable[..., Array]
) -> Iterator[tuple[Measure, Arrays]]:
    """`measure(apply, params, images, labels, chunk)`, compiled once for all networks of one structure.

    `apply` is (params, images) -> logits.
    """
    for spec in specs:
        net = _only(spec)
        if not isinstance(net, Network | Pretrained):
            kind = type(net).__name__
            raise ValueError(f"{spec.call.name} looks at the weights of a network; {kind} has none")
        dataset = context.dataset(spec.data)
        chunk = _chunk(context, len(dataset))

        def run(variables: PyTree, images: Array, labels: Array, net: Any = net, chunk: int = chunk) -> Array:
            def apply(params: PyTree, images: Array) -> Array:
                predict = context.with_weights(net, variables | {"params": params})
                return predict(data.to_float(images))

            return measure(apply, variables["params"], images, labels, chunk)

        alike: Any = net.key
        if isinstance(net, Network):
            alike = net.model.key, net.mean, net.std, context.num_classes(net)
        compiled = context.cached((spec.call.key, alike, chunk), partial(jax.jit, run), 0)
        images, labels = jnp.asarray(dataset.images), jnp.asarray(dataset.labels)
        yield spec, {"values": np.atleast_1d(compiled(context.variables(net), images, labels))}


def weight_eigenvalue(
    context: Context, specs: Sequence[Measure], k: int = 1
) -> Iterator[tuple[Measure, Arrays]]:
    """The k largest eigenvalues `[k]` of the loss's Hessian over the weights."""

    def top(apply: Callable, params: PyTree, images: Array, labels: Array, chunk: int) -> Array:
        matrix = metrics.weight_matvec(apply, params, images, labels, chunk=chunk)
        key = jax.random.key(0)
        return metrics.top_eigenvalues(key, matrix.product, matrix.size, k=k, start=matrix.start).values

    return _of_weights(context, specs, top)


def weight_trace(context: Context, specs: Sequence[Measure]) -> Iterator[tuple[Measure, Arrays]]:
    """The trace `[1]` of the loss's Hessian over the weights of a ReLU net, exact."""
    return _of_weights(
        context,
        specs,
        lambda apply, params, images, _, chunk: metrics.weight_trace(apply, params, images, chunk=chunk),
    )


def _chunk(context: Context, count: int) -> int:
    """Images at once: the largest divisor that fits a batch."""
    return max(d for d in range(1, min(context.batch_size, count) + 1) if count % d == 0)


def _of_pairs(context: Context, spec: Measure, compare: Callable[[Array, Array], Any]) -> Any:
    """What `compare` says of clean and attacked images, uint8 both, in batches.

    Raises:
        ValueError: a measure of something else.
    """
    if spec.of or not isinstance(spec.data, Adversarial):
        raise ValueError(f"{spec.call.name} is of attacked images, and of no network")
    pairs = [context.dataset(images).images for images in (spec.data.data, spec.data)]
    starts = range(0, len(pairs[0]), context.batch_size)
    parts = [compare(*(jnp.asarray(images[i : i + context.batch_size]) for images in pairs)) for i in starts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def distortion(context: Context, specs: Sequence[Measure]) -> Iterator[tuple[Measure, Arrays]]:
    """How far attacked images are from clean ones: `l2` and `ssim`, `[N]` each; of no network."""

    def both(clean: Array, moved: Array) -> dict[str, Array]:
        x, y = data.to_float(clean), data.to_float(moved)
        return {"l2": metrics.l2_distance(x, y), "ssim": metrics.ssim(x, y)}

    compiled = context.cached(("measure", "distortion"), partial(jax.jit, both), 0)
    for spec in specs:
        yield spec, _of_pairs(context, spec, compiled)


def lpips(
    context: Context,
    specs: Sequence[Measure],
    net: str = "alex",
    *,
    backbone: str,
    linear: str,
    sha256: tuple[str, ...] = (),
) -> Iterator[tuple[Measure, Arrays]]:
    """The perceptual distance of attacked images from clean ones, `[N]`; of no network of the study.

    `net`, `backbone` and `linear` are those of `metrics.read_lpips`.
    """

    def read() -> metrics.Lpips:
        for file, expected in zip((backbone, linear), sha256, strict=True):
            content.check_file(file, expected)
        return metrics.read_lpips(net, backbone, linear)

    def distance(weights: metrics.Lpips, clean: Array, moved: Array) -> Array:
        return metrics.lpips(weights, data.to_float(clean), data.to_float(moved))

    weights = context.cached(("lpips", net, sha256), read)
    compiled = partial(context.cached(("measure", "lpips"), partial(jax.jit, distance), 0), weights)
    for spec in specs:
        yield spec, {"values": _of_pairs(context, spec, compiled)}
