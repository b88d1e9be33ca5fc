"""How fast, and how exact, are Hessian eigenvalues: of images and of weights, ours against the others.

`cifar_resnet18` with weights trained on CIFAR-10, CIFAR-10 test images, float32, top eigenvalue to 1e-3. The
methods take turns, so that a busy machine slows all alike, and CPU seconds are counted beside the clock's;
errors are against a float64 reference.

Input space, time per image:
    leading         ours: a few pullbacks and tangents, as many as each image needs
    exact           ours: K-1 pullbacks of one forward pass
    class_lanczos   ours: Lanczos on the K-1 x K-1 matrix, two passes a product
    lanczos         ours: Lanczos on Hessian-vector products, for nets that are not piecewise linear
    eigsh           (a) the official code's way: SciPy's eigsh(k=1, which="LA") per image, every product with
                    a forward pass of its own; and `eigsh, shared graph`, which keeps the gradient's graph
    power           (b) PyHessian's iteration (change of the eigenvalue below 1e-3) per image in PyTorch; and
                    `power, batched` over all images at once, its graph shared. A small change is not a small
                    error: `power, to the tolerance` and `power, batched, to the tolerance` go on until the
                    error, known from the reference, is below 1e-3
    matfree         (c) matfree's Lanczos under vmap on jvp(grad) of the same net with Flax's convolutions,
                    with the least number of products that reaches 1e-3 on these very images; `matfree, our
                    convolutions`; and `matfree, our products`
Weight space, one batch: top eigenvalue (ours: Lanczos from the gradient of the confidence; PyHessian: power
iteration with its own stopping rule, and on until its error is below 1e-3; curvlinops: eigsh) and trace
(ours: exact; PyHessian: Hutchinson's estimate with its own stopping rule and at most 100 probes, as it comes;
and a few probes of ours and of theirs, the price of one).

The roofline, in passes (a pullback to the images costs as much as a forward pass, and so does a tangent):
the exact spectrum takes 1 + (K-1) = 10, and all of it has rank K-1. A Krylov method that is after the top
eigenvalue alone takes 2 m for m products, and one more product to know that it is done. `roofline` works out,
from the exact K x K matrices, how many passes the best of them needs on these images: Krylov in class space
from the leading eigenvector of diag(p) - p pᵀ. `leading` takes five, forward pass, two pullbacks at once,
tangent, pullback, and two to three for each image that is not done then, with another forward pass. In weight
space the gradient takes 3 passes and a product with the Hessian 6, whoever makes it; the exact trace takes
2K - 1 = 19, as many as three probes.

What it showed on two cores (`results/hessian.json`: 64 % test accuracy, 64 images, 8 of them for the methods
that go image by image, medians of two rounds):
- `leading` costs 72 ms per image, 7.2 forward passes, with errors of 1e-6 and at most 7e-4; `exact` 88 ms (on
  16 and 32 images, in other runs, 1.2 and 1.3 times as much as `leading`). It compiles in 27 s, `exact` in 7.
  `class_lanczos` and `lanczos` cost 98 and 119 ms, because the batch waits for its hardest image, and their
  errors reach 1.9e-3 and 2.5e-3.
- eigsh takes 66 times as long as the official code runs it, and 41 times with the graph kept.
- Power iteration image by image takes 14 times as long with PyHessian's rule and 11 times until the error is
  right; batched, which PyHessian does not offer, 8.1 times with its rule, whose errors reach 1.2e-3, and 7.8
  until they are right. Ten times that would be 58 ms, 5.9 passes: what the best Krylov method needs at the
  median, before it has looked at its error, and without the images that need more, up to 10.
- matfree takes 4.5 times as long, told beforehand that six products will do for all 64 images; with four,
  which will do for the first 16, it would be three times. With our convolutions 1.6.
- Weight space, top: 3 products to our 1e-3 (true error 6e-4); PyHessian takes 2.15 times as long with its own
  rule (error 1.04e-3), 2.3 times to the tolerance. It is 3 products on these images and 4 on the next 32.
- Trace: PyHessian's rule stops after 22 probes, 23 % off, and takes 3.2 times as long as the exact trace; 8
  probes of Hutchinson's cost 1.2 (theirs) and 1.3 (ours) times as much and have a standard error of 22 %.

    TFDS_DATA_DIR=… python benchmarks/hessian.py [--images 64] [--few 8] [--repeats 2] [--batch 32]
        [--probes 8] [--steps 1000, of training]

Peers that are not installed are left out (`pip install matfree pyhessian`; curvlinops brings its PyTorch).
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads sleep where they would spin

import jax
import jax.numpy as jnp
import numpy as np
import torch
from peers import check, torch_model
from scipy.sparse.linalg import LinearOperator, eigsh
from trained import MEAN, MODEL, STD, predictor, trained_variables

from transferjax import data, models
from transferjax.metrics import (
    input_hessian_eigenvalues,
    top_eigenvalues,
    trace,
    weight_matvec,
    weight_trace,
)
from transferjax.metrics.curvature import hessian_matvec

TOL = 1e-3
RESULTS = Path(__file__).parent / "results" / "hessian.json"
Method = Callable[[], tuple[np.ndarray, float]]
"""() -> eigenvalues of the images it was made for, and products per image."""


def ours(predict, images, labels, **options) -> Method:
    run = jax.jit(partial(input_hessian_eigenvalues, k=1, tol=TOL, **options))
    products = {"exact": 9.0}.get(options["method"], float("nan"))
    return lambda: (np.asarray(run(predict, images, labels))[:, 0], products)


def roofline(predict, images, labels) -> dict[str, float]:
    """Passes with which Krylov from the leading class direction finds the top eigenvalue to the tolerance."""
    logits, pullback = jax.vjp(predict, images)
    rows = [pullback(jnp.broadcast_to(e, logits.shape))[0] for e in jnp.eye(logits.shape[1])]
    rows = np.stack([np.asarray(row, np.float64).reshape(len(images), -1) for row in rows], 1)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    values, vectors = np.linalg.eigh(np.eye(p.shape[1]) * p[:, None] - p[:, :, None] * p[:, None])
    factors = vectors * np.sqrt(np.maximum(values, 0))[:, None]
    passes = []
    for row, factor in zip(rows, factors, strict=True):
        matrix = (factor.T @ row) @ (factor.T @ row).T
        krylov, top = np.eye(len(matrix))[:, -1:], np.linalg.eigvalsh(matrix)[-1]
        while np.linalg.eigvalsh(krylov.T @ matrix @ krylov)[-1] < (1 - TOL) * top:
            krylov = np.linalg.qr(np.column_stack([krylov, matrix @ krylov[:, -1]]))[0]
        passes.append(2 * krylov.shape[1])
    return {"median_passes": float(np.median(passes)), "most_passes": float(max(passes)), "exact": 10.0}


def matfree_method(predict, images, labels, products: int, own: bool) -> Method:
    from matfree import decomp, eig

    solve = eig.eigh_partial(decomp.tridiag_sym(products))
    start = jax.random.normal(jax.random.key(0), (images[0].size,))

    def top(predict, image, label):
        def loss(x):
            return -jax.nn.log_softmax(predict(x.reshape(1, *image.shape)))[0, label]

        if own:
            matvec = hessian_matvec(predict, image[None], label[None])
            product = lambda v: matvec(v[None])[0]  # noqa: E731
        else:
            product = lambda v: jax.jvp(jax.grad(loss), (image.ravel(),), (v,))[1]  # noqa: E731
        return jnp.abs(solve(product, start)[0]).max()

    run = jax.jit(jax.vmap(top, (None, 0, 0)))
    return lambda: (np.asarray(run(predict, images, labels)), float(products))


def fewest_products(predict, images, labels, reference: np.ndarray) -> int:
    """The least number of products with which matfree's error is within the tolerance on every image."""
    for products in (3, 4, 5, 6, 7, 8, 10, 12, 16):
        values, _ = matfree_method(predict, images, labels, products, own=True)()
        if np.abs(values / reference - 1).max() <= TOL:
            return products
    return 24


def on_flax_convolutions(method: Method) -> Method:
    """The same, compiled with the convolutions that a Flax model has by itself."""

    def run():
        with mock.patch("transferjax.models.layers.conv_general_dilated", jax.lax.conv_general_dilated):
            return method()

    return run


def torch_gradient(net, x, y):
    loss = torch.nn.functional.cross_entropy(net(x), y, reduction="sum")
    return torch.autograd.grad(loss, x, create_graph=True)[0]


def torch_eigsh(net, images, labels, shared: bool, tol: float = TOL) -> Method:
    """(a): one image at a time."""

    def one(x, y) -> tuple[float, int]:
        x = x[None].clone().requires_grad_(True)
        kept = torch_gradient(net, x, y[None]) if shared else None
        count = 0

        def product(v: np.ndarray) -> np.ndarray:
            nonlocal count
            count += 1
            gradient = torch_gradient(net, x, y[None]) if kept is None else kept
            v = torch.as_tensor(v, dtype=x.dtype).reshape(x.shape)
            return torch.autograd.grad(gradient, x, v, retain_graph=shared)[0].numpy().ravel()

        operator = LinearOperator((x.numel(), x.numel()), product, dtype=images.numpy().dtype)
        start = np.random.default_rng(0).standard_normal(x.numel())
        value = eigsh(operator, k=1, which="LA", tol=tol, v0=start, return_eigenvectors=False)[0]
        return float(value), count

    def run():
        found = [one(x, y) for x, y in zip(images, labels, strict=True)]
        return np.array([value for value, _ in found]), statistics.mean(count for _, count in found)

    return run


def torch_power(
    net, images, labels, batched: bool, reference: np.ndarray | None = None, most: int = 100
) -> Method:
    """(b): PyHessian's iteration with its stopping rule, or until the values are right."""

    def right(values, reference: np.ndarray) -> bool:
        return bool((np.abs(values.numpy() / reference - 1) <= TOL).all())

    def iterate(x, y, reference: np.ndarray | None) -> tuple[np.ndarray, int]:
        x = x.clone().requires_grad_(True)
        gradient = torch_gradient(net, x, y)
        v = torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).expand(x.shape)
        value = None
        count = 0
        while count < most:
            count += 1
            v = v / (v.flatten(1).norm(dim=1)[:, None, None, None] + 1e-6)
            product = torch.autograd.grad(gradient, x, v, retain_graph=True)[0]
            new = (product * v).sum((1, 2, 3))
            still = value is not None and bool(((new - value).abs() / (value.abs() + 1e-6) < TOL).all())
            if still if reference is None else right(new, reference):
                break
            v, value = product, new
        return new.numpy(), count

    def run():
        if batched:
            return iterate(images, labels, reference)
        known = [None] * len(images) if reference is None else reference[:, None]
        found = [iterate(x[None], y[None], r) for x, y, r in zip(images, labels, known, strict=True)]
        return np.concatenate([value for value, _ in found]), statistics.mean(count for _, count in found)

    return run


class Spent(NamedTuple):
    """Of the clock, and of all threads together."""

    seconds: float
    cpu_seconds: float


def timed(run: Callable[[], Any]) -> tuple[Spent, Any]:
    begin, cpu = time.perf_counter(), time.process_time()
    result = run()
    return Spent(time.perf_counter() - begin, time.process_time() - cpu), result


def in_turns(methods: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[Spent, Any]]:
    """Median times and the last result of each; a first round, not counted, compiles."""
    seconds: dict[str, list[Spent]] = {name: [] for name in methods}
    results = {}
    for repeat in range(repeats + 1):
        for name, run in methods.items():
            spent, results[name] = timed(run)
            if repeat:
                seconds[name].append(spent)
        print(f"  round {repeat} of {repeats}", flush=True)
    medians = {name: Spent(*map(statistics.median, zip(*seconds[name], strict=True))) for name in methods}
    return {name: (medians[name], results[name]) for name in methods}


def has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def input_space(variables, images: np.ndarray, labels: np.ndarray, few: int, repeats: int) -> dict[str, Any]:
    predict, x, y = predictor(variables), jnp.asarray(images), jnp.asarray(labels)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (predict, x))
        exact = jax.jit(partial(input_hessian_eigenvalues, k=1, method="exact"))
        reference = np.concatenate(
            [exact(wide[0], part, y)[:, 0] for part in jnp.split(wide[1], len(x) // 4)]
        )
    net, double = torch_model(variables), torch_model(variables).double()
    for parameter in [*net.parameters(), *double.parameters()]:
        parameter.requires_grad_(False)
    tx = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    ty = torch.from_numpy(labels.astype(np.int64))
    second, _ = torch_eigsh(double, tx[:2].double(), ty[:2], shared=True, tol=1e-10)()

    forward = jax.jit(lambda predict, x: predict(x))
    methods: dict[str, Callable[[], Any]] = {
        "forward pass": lambda: (np.asarray(forward(predict, x)), 0.0),
        "leading": ours(predict, x, y, method="leading"),
        "exact": ours(predict, x, y, method="exact"),
        "class_lanczos": ours(predict, x, y, method="class_lanczos"),
        "lanczos": ours(predict, x, y, method="lanczos"),
        "eigsh": torch_eigsh(net, tx[:few], ty[:few], shared=False),
        "eigsh, shared graph": torch_eigsh(net, tx[:few], ty[:few], shared=True),
        "power": torch_power(net, tx[:few], ty[:few], batched=False),
        "power, batched": torch_power(net, tx, ty, batched=True),
        "power, to the tolerance": torch_power(net, tx[:few], ty[:few], False, reference[:few]),
        "power, batched, to the tolerance": torch_power(net, tx, ty, True, reference),
    }
    if has("matfree"):
        products = fewest_products(predict, x, y, reference)
        methods["matfree"] = on_flax_convolutions(
            matfree_method(predictor(variables), x[:few], y[:few], products, own=False)
        )
        methods["matfree, our convolutions"] = matfree_method(predict, x, y, products, own=False)
        methods["matfree, our products"] = matfree_method(predict, x, y, products, own=True)
    measured = in_turns(methods, repeats)
    per_image = measured.pop("forward pass")[0].seconds / len(x)
    ours_time = measured["leading"][0]
    rows = {}
    for name, (spent, (values, products)) in measured.items():
        error = np.abs(values / reference[: len(values)] - 1)
        rows[name] = {
            "milliseconds_per_image": 1e3 * spent.seconds / len(values),
            "time_relative_to_leading": spent.seconds / len(values) / ours_time.seconds * len(x),
            "cpu_time_relative_to_leading": spent.cpu_seconds / len(values) / ours_time.cpu_seconds * len(x),
            "forward_passes": spent.seconds / len(values) / per_image,
            "products": products,
            "largest_relative_error": float(error.max()),
            "median_relative_error": float(np.median(error)),
            "images": len(values),
        }
    return {
        "forward_milliseconds_per_image": 1e3 * per_image,
        "reference_against_float64_eigsh": float(np.abs(second / reference[:2] - 1).max()),
        "mean_top_eigenvalue": float(reference.mean()),
        "roofline": roofline(predict, x, y),
        "methods": rows,
    }


def our_weights(variables, x, y, probes: int) -> dict[str, Callable[[], Any]]:
    module = models.build(MODEL)
    key = jax.random.key(0)

    def apply(params, images):
        return models.predictor(module, {**variables, "params": params}, MEAN, STD)(images)

    matrix = partial(weight_matvec, apply)

    def top(params, x, y, tol):
        product, size, start = matrix(params, x, y)
        return top_eigenvalues(key, product, size, start=start, steps=12, tol=tol)

    def values(found) -> list[float]:
        return [float(found.values[0]), int(found.products)]

    params = variables["params"]
    run = jax.jit(top)
    exact = jax.jit(lambda params, x: weight_trace(apply, params, x))
    estimate = jax.jit(lambda *problem: trace(key, *matrix(*problem)[:2], samples=probes))
    return {
        "top, ours": lambda: values(run(params, x, y, TOL)),
        "top, ours, to 1e-6": lambda: values(run(params, x, y, 1e-6)),
        "trace, ours": lambda: [float(exact(params, x))],
        "trace, ours, few probes": lambda: [float(v) for v in estimate(params, x, y)],
    }


def their_weights(net, tx, ty, probes: int, reference: float) -> dict[str, Callable[[], Any]]:
    loss = torch.nn.CrossEntropyLoss()
    methods: dict[str, Callable[[], Any]] = {}
    if has("pyhessian"):
        from pyhessian import hessian

        def top(tol: float) -> list[float]:
            torch.manual_seed(0)
            return hessian(net, loss, data=(tx, ty), cuda=False).eigenvalues(maxIter=100, tol=tol)[0]

        def traced(most: int, tol: float) -> list[float]:
            torch.manual_seed(0)
            found = hessian(net, loss, data=(tx, ty), cuda=False).trace(maxIter=most, tol=tol)
            return [float(np.mean(found)), len(found)]

        finer = (TOL, TOL / 2, TOL / 5, TOL / 20)
        enough = next((t for t in finer if abs(top(t)[0] / reference - 1) <= TOL), finer[-1])
        methods["top, PyHessian"] = partial(top, TOL)
        methods["top, PyHessian, to the tolerance"] = partial(top, enough)
        methods["trace, PyHessian"] = partial(traced, 100, TOL)
        methods["trace, PyHessian, few probes"] = partial(traced, probes, 0.0)
    if has("curvlinops"):
        from curvlinops import HessianLinearOperator

        def top():
            data = [(tx, ty)]
            operator = HessianLinearOperator(
                net, loss, list(net.parameters()), data, check_deterministic=False
            )
            start = np.random.default_rng(0).standard_normal(operator.shape[1]).astype(np.float32)
            return eigsh(operator.to_scipy(), k=1, tol=TOL, v0=start, return_eigenvectors=False).tolist()

        methods["top, curvlinops"] = top
    return methods


def weight_space(
    variables, images: np.ndarray, labels: np.ndarray, repeats: int, probes: int
) -> dict[str, Any]:
    net = torch_model(variables)
    tx = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    ty = torch.from_numpy(labels.astype(np.int64))
    methods = our_weights(variables, jnp.asarray(images), jnp.asarray(labels), probes)
    reference = methods["top, ours, to 1e-6"]()[0]
    methods |= their_weights(net, tx, ty, probes, reference)
    measured = in_turns(methods, repeats)
    rows = {}
    for name, (spent, values) in measured.items():
        base = measured[f"{name.split(',')[0]}, ours"][0]
        rows[name] = {
            "seconds": spent.seconds,
            "time_relative_to_ours": spent.seconds / base.seconds,
            "cpu_time_relative_to_ours": spent.cpu_seconds / base.cpu_seconds,
            "values": values,
        }
    return {"images": len(images), "probes": probes, "methods": rows}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--few", type=int, default=8, help="images for the methods that take them one by one")
    parser.add_argument("--batch", type=int, default=32, help="images for the weight space")
    parser.add_argument("--probes", type=int, default=8, help="of the traces")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    variables, accuracy = trained_variables(flags.steps)
    test = data.load("cifar10", "test").subset(max(flags.images, flags.batch))
    images, labels = np.asarray(data.to_float(jnp.asarray(test.images))), np.asarray(test.labels)
    few, many = ((images[:n], labels[:n]) for n in (flags.images, flags.batch))
    result = {
        "model": MODEL,
        "test_accuracy": accuracy,
        "logits_of_the_two_nets_differ_by": check(variables, images[:4]),
        "device": f"{platform.machine()}, {jax.default_backend()}, {torch.get_num_threads()} threads",
        "versions": {"jax": jax.__version__, "torch": torch.__version__},
        "tolerance": TOL,
        "input_space": input_space(variables, *few, flags.few, flags.repeats),
        "weight_space": weight_space(variables, *many, flags.repeats, flags.probes),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
