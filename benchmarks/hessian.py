"""How fast, and how exact, are Hessian eigenvalues: of images and of weights, ours against the others?

`cifar_resnet18` with weights trained on CIFAR-10, test images, float32. Errors are against a float64
reference: the largest relative one of all images, or that of the batch. Times of images are those of one, of
`--images` together, or of the first `--few` where a method goes image by image; the figure `images` says so.

Input space, the top eigenvalue to 1e-3:
    leading, exact, class_lanczos, lanczos      ours
    eigsh           the official code's way: SciPy's eigsh(k=1, which="LA") per image, every product with a
                    forward pass of its own; `eigsh, shared graph` keeps the gradient's graph
    power           PyHessian's iteration and stopping rule per image (a change of the eigenvalue below
                    1e-3, which is not a small error)
    matfree         its Lanczos under vmap on jvp(grad) of the same net with Flax's convolutions, told how
                    many products to make
Weight space, one batch:
    gradient, product   of the mean loss; products reuse what one point allows: our residuals of the
                        linearized gradient, PyTorch's graph; curvlinops's linear operator does not
    top             ours, Lanczos from the gradient of the confidence; PyHessian's power iteration with its
                    own rule; SciPy's eigsh on curvlinops's operator
    trace           ours, exact; and XTrace with `--products` products: ours, matfree's, curvlinops's
A `compiled` contender went through `torch.compile`.

    TFDS_DATA_DIR=… python benchmarks/hessian.py [--images 64] [--few 8] [--batch 32] [--products 16]
        [--steps 1000, of training] [--width 64]
"""

import argparse
from collections.abc import Callable
from functools import partial
from unittest import mock

import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import Contender, Figured
from peers import both, test_images, to_torch, torch_model
from trained import MEAN, MODEL, STD, predictor, trained_variables

from transferjax import models
from transferjax.metrics import (
    input_hessian_eigenvalues,
    top_eigenvalues,
    weight_matvec,
    weight_trace,
    xtrace,
)

TOL = 1e-3
METHODS = ("leading", "exact", "class_lanczos", "lanczos")
KEY = jax.random.key(0)


def net_of(net: dict):
    """Our predict, and the trained weights, of `{"steps": of training, "width": of the net}`."""
    variables = trained_variables(**net)[0]
    return predictor(variables, width=net["width"]), variables


def measured(call: Callable, reference: list[float], **more: float) -> Figured:
    """With the largest relative error of what it returns."""

    def figures() -> dict[str, float]:
        values = np.asarray(call()).ravel()
        return {"error": float(np.abs(values / np.asarray(reference)[: len(values)] - 1).max()), **more}

    return Figured(call, figures)


def ours(method: str, count: int, net: dict, reference: list[float]):
    predict, _ = net_of(net)
    images, labels = map(jnp.asarray, test_images(count))
    run = jax.jit(partial(input_hessian_eigenvalues, k=1, tol=TOL, method=method))
    return measured(lambda: np.asarray(run(predict, images, labels)), reference)


def matfree(count: int, net: dict, reference: list[float], products: int):
    from matfree import decomp, eig

    predict, _ = net_of(net)
    images, labels = map(jnp.asarray, test_images(count))
    solve = eig.eigh_partial(decomp.tridiag_sym(products))
    start = jax.random.normal(KEY, (images[0].size,))

    def top(predict, image, label):
        def loss(x):
            return -jax.nn.log_softmax(predict(x.reshape(1, *image.shape)))[0, label]

        product = lambda v: jax.jvp(jax.grad(loss), (image.ravel(),), (v,))[1]  # noqa: E731
        return jnp.abs(solve(product, start)[0]).max()

    with mock.patch("transferjax.models.layers.conv_general_dilated", jax.lax.conv_general_dilated):
        run = jax.jit(jax.vmap(top, (None, 0, 0))).lower(predict, images, labels).compile()
    return measured(lambda: np.asarray(run(predict, images, labels)), reference, products=products)


def torch_problem(count: int, net: dict):
    """PyTorch's net, images and labels."""
    import torch

    module = torch_model(trained_variables(**net)[0], width=net["width"])
    images, labels = test_images(count)
    return module, to_torch(images), torch.from_numpy(labels.astype(np.int64))


def one_by_one(one: Callable, count: int, net: dict, reference: list[float]) -> Figured:
    """`one(x with gradients, its input gradient's function)` -> value, image by image."""
    import torch

    module, images, labels = torch_problem(count, net)
    module.requires_grad_(False)

    def gradient(x, y):
        loss = torch.nn.functional.cross_entropy(module(x), y, reduction="sum")
        return torch.autograd.grad(loss, x, create_graph=True)[0]

    def run() -> list[float]:
        pairs = ((x[None].clone().requires_grad_(True), y[None]) for x, y in zip(images, labels, strict=True))
        return [one(x, partial(gradient, x, y)) for x, y in pairs]

    return measured(run, reference, images=count)


def eigsh(shared: bool, **problem):
    import torch
    from scipy.sparse import linalg

    def one(x, gradient: Callable) -> float:
        kept = gradient() if shared else None

        def product(v: np.ndarray) -> np.ndarray:
            v = torch.as_tensor(v, dtype=x.dtype).reshape(x.shape)
            return torch.autograd.grad(gradient() if kept is None else kept, x, v, retain_graph=shared)[
                0
            ].numpy()

        operator = linalg.LinearOperator(
            (x.numel(), x.numel()), lambda v: product(v).ravel(), dtype=np.float32
        )
        start = np.random.default_rng(0).standard_normal(x.numel())
        return float(linalg.eigsh(operator, 1, which="LA", tol=TOL, v0=start, return_eigenvectors=False)[0])

    return one_by_one(one, **problem)


def power(**problem):
    import torch

    def one(x, gradient: Callable) -> float:
        kept, old = gradient(), None
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        for _ in range(100):
            v = v / (v.norm() + 1e-6)
            product = torch.autograd.grad(kept, x, v, retain_graph=True)[0]
            value = float((product * v).sum())
            if old is not None and abs(value - old) / (abs(old) + 1e-6) < TOL:
                break
            v, old = product, value
        return value

    return one_by_one(one, **problem)


def weight_problem(count: int, net: dict, dtype=jnp.float32):
    variables = jax.tree.map(lambda a: jnp.asarray(a, dtype), net_of(net)[1])
    module, (images, labels) = models.build(MODEL, width=net["width"]), test_images(count)

    def apply(params, images):
        return models.predictor(module, {**variables, "params": params}, MEAN, STD)(images)

    return apply, variables["params"], jnp.asarray(images, dtype), jnp.asarray(labels)


def our_weights(what: str, count: int, net: dict, reference: list[float], products: int):
    apply, *problem = weight_problem(count, net)
    matrix = partial(weight_matvec, apply)

    def top(*problem):
        product, size, start = matrix(*problem)
        found = top_eigenvalues(KEY, product, size, start=start, steps=12, tol=TOL)
        return found.values[0]

    def estimate(*problem):
        return xtrace(KEY, *matrix(*problem)[:2], samples=products).value

    exact = lambda params, images, labels: weight_trace(apply, params, images)  # noqa: E731
    run = jax.jit({"top": top, "trace, exact": exact, "trace": estimate}[what])
    return measured(lambda: float(run(*problem)), reference)


def our_passes(what: str, count: int, net: dict):
    apply, params, images, labels = weight_problem(count, net)
    if what == "gradient":
        loss = lambda p: -jnp.mean(jax.nn.log_softmax(apply(p, images))[jnp.arange(count), labels])  # noqa: E731
        run = jax.jit(jax.grad(loss))
        return lambda: jax.block_until_ready(run(params))
    traced = []

    def linearized(*problem):
        """The product's residuals, as a program computes them: constants of it would be folded away."""
        product, _, start = weight_matvec(apply, *problem)
        traced.append(jax.make_jaxpr(product)(start))
        return start, traced[-1].consts

    start, residuals = jax.jit(linearized)(params, images, labels)
    run = jax.jit(lambda v, residuals: jax.core.eval_jaxpr(traced[-1].jaxpr, residuals, v))
    return lambda: jax.block_until_ready(run(start, residuals))


def matfree_trace(count: int, net: dict, reference: list[float], products: int):
    from matfree import stochtrace

    apply, *problem = weight_problem(count, net)

    def estimate(*problem):
        product, _, start = weight_matvec(apply, *problem)
        sampler = stochtrace.sampler_signs(start, num=products // 2)
        serial = lambda v: jax.custom_batching.sequential_vmap(product)(v)  # noqa: E731
        return stochtrace.estimator_leave_one_out(stochtrace.leave_one_out_xtrace(), sampler)(serial, KEY)

    run = jax.jit(estimate)
    return measured(lambda: float(run(*problem)), reference)


def torch_passes(what: str, count: int, net: dict):
    import torch

    module, images, labels = torch_problem(count, net)
    weights = list(module.parameters())

    def gradient(graph: bool):
        loss = torch.nn.functional.cross_entropy(module(images), labels)
        return torch.autograd.grad(loss, weights, create_graph=graph)

    if what == "gradient":
        return partial(gradient, False)
    kept, vectors = gradient(True), [torch.randn_like(w) for w in weights]
    return lambda: torch.autograd.grad(kept, weights, vectors, retain_graph=True)


def pyhessian(count: int, net: dict, reference: list[float]):
    import torch
    from pyhessian import hessian

    module, images, labels = torch_problem(count, net)

    def run() -> float:
        torch.manual_seed(0)
        problem = hessian(module, torch.nn.CrossEntropyLoss(), data=(images, labels), cuda=False)
        return problem.eigenvalues(maxIter=100, tol=TOL)[0][0]

    return measured(run, reference)


def curvlinops(what: str, count: int, net: dict, reference: list[float], products: int, compiled: bool):
    import torch
    from curvlinops import HessianLinearOperator
    from curvlinops import xtrace as estimate
    from scipy.sparse import linalg

    module, *batch = torch_problem(count, net)
    options = {"check_deterministic": False}
    matrix = HessianLinearOperator(
        module, torch.nn.CrossEntropyLoss(), list(module.parameters()), [tuple(batch)], **options
    )
    size = matrix.shape[1]
    product = torch.compile(lambda v: matrix @ v) if compiled else lambda v: matrix @ v
    if what == "product":
        vector = torch.randn(size)
        return lambda: product(vector)
    if what == "trace":
        return measured(lambda: float(estimate(matrix, products)), reference)
    start = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    operator = linalg.LinearOperator(
        (size, size), lambda v: product(torch.as_tensor(v).ravel()).numpy(), dtype=np.float32
    )
    return measured(
        lambda: linalg.eigsh(operator, 1, tol=TOL, v0=start, return_eigenvectors=False), reference
    )


def references(images: int, batch: int, net: dict) -> tuple[list[float], list[float], list[float]]:
    """In float64: the images' top eigenvalues, the weights' top eigenvalue and trace."""
    single = net_of(net)[0]  # trained before float64 is on
    with jax.enable_x64(True):
        predict = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), single)
        x, y = test_images(images)
        exact = jax.jit(partial(input_hessian_eigenvalues, k=1, method="exact"))
        inputs = exact(predict, jnp.asarray(x, jnp.float64), jnp.asarray(y))[:, 0]
        apply, *problem = weight_problem(batch, net, jnp.float64)

        def top(*problem):
            product, size, start = weight_matvec(apply, *problem)
            return top_eigenvalues(KEY, product, size, start=start, tol=1e-8, dtype=jnp.float64).values[0]

        trace = jax.jit(partial(weight_trace, apply))(*problem[:2])
        return np.asarray(inputs).tolist(), [float(jax.jit(top)(*problem))], [float(trace)]


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--few", type=int, default=8, help="images for the methods that take them one by one")
    parser.add_argument("--batch", type=int, default=32, help="images for the weight space")
    parser.add_argument("--products", type=int, default=16, help="of XTrace")
    parser.add_argument("--krylov", type=int, default=6, help="products that matfree makes per image")
    parser.add_argument("--steps", type=int, default=1000, help="of training")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True, help="curvlinops")
    parser.add_argument("--width", type=int, default=64, help="of the net")
    flags = parser.parse_args()
    net = {"steps": flags.steps, "width": flags.width}
    both(trained_variables(**net)[0], width=flags.width)
    inputs, top, trace = references(flags.images, flags.batch, net)
    all_of = {"count": flags.images, "net": net, "reference": inputs}
    few = {**all_of, "count": flags.few}
    at = {"count": flags.batch, "net": net}
    tops, traces = ({**at, "reference": of, "products": flags.products} for of in (top, trace))

    def peers(what: str, arguments: dict) -> list[Contender]:
        """curvlinops, eager and compiled."""
        kinds = {"curvlinops": False, **({"curvlinops, compiled": True} if flags.compiled else {})}
        return [
            Contender(name, curvlinops, {"what": what, **arguments, "compiled": compiled})
            for name, compiled in kinds.items()
        ]

    cases = {
        "images, top": [
            *(Contender(name, ours, {"method": name, **all_of}, work=flags.images) for name in METHODS),
            Contender("matfree", matfree, {**all_of, "products": flags.krylov}, work=flags.images),
            Contender("eigsh", eigsh, {"shared": False, **few}, work=flags.few),
            Contender("eigsh, shared graph", eigsh, {"shared": True, **few}, work=flags.few),
            Contender("power", power, few, work=flags.few),
        ],
        "weights, gradient": [
            Contender("ours", our_passes, {"what": "gradient", **at}),
            Contender("PyTorch", torch_passes, {"what": "gradient", **at}),
        ],
        "weights, product": [
            Contender("ours", our_passes, {"what": "product", **at}),
            Contender("PyTorch, kept graph", torch_passes, {"what": "product", **at}),
            *peers("product", tops),
        ],
        "weights, top": [
            Contender("ours", our_weights, {"what": "top", **tops}),
            Contender("PyHessian", pyhessian, {**at, "reference": top}),
            *peers("top", tops),
        ],
        "weights, trace": [
            Contender("ours, exact", our_weights, {"what": "trace, exact", **traces}),
            Contender("XTrace, ours", our_weights, {"what": "trace", **traces}),
            Contender("XTrace, matfree", matfree_trace, traces),
            Contender("XTrace, curvlinops", curvlinops, {"what": "trace", **traces, "compiled": False}),
        ],
    }
    harness.run("hessian", "How fast and how exact are eigenvalues of Hessians?", cases, flags)


if __name__ == "__main__":
    main()
