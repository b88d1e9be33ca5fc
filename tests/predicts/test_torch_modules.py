"""PyTorch modules as surrogates and targets: values and gradients are PyTorch's."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import attacks, data, losses, metrics
from transferjax.predicts import Preprocessing, from_torch_module
from transferjax.predicts.torch_modules import find_logits

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
X = jnp.asarray(IMAGES / 255, jnp.float32)
LABELS = jnp.array([0, 1, 2, 0, 1])


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is optional: pip install 'transferjax[torch]'")


def net(torch, classes=4, seed=0):
    torch.manual_seed(seed)
    layers = torch.nn
    return layers.Sequential(
        layers.Conv2d(3, 2, 3), layers.BatchNorm2d(2), layers.Tanh(), layers.Dropout(0.5),
        layers.Flatten(), layers.Linear(8, classes),
    )  # fmt: skip


def reference(torch, module, x, ct):
    """Logits and `Jᵀ ct` by PyTorch alone."""
    images = torch.tensor(np.array(x).transpose(0, 3, 1, 2), requires_grad=True)
    logits = module.eval()(images)
    logits.backward(torch.tensor(np.array(ct)))
    return logits.detach().numpy(), images.grad.numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_logits_and_gradients_are_those_of_pytorch(torch, run):
    module, ct = net(torch), RNG.normal(size=(5, 4)).astype(np.float32)
    predict = from_torch_module(module)
    logits, gradient = reference(torch, module, X, ct)
    got, pullback = run(lambda x, ct: (lambda y, pull: (y, pull(ct)[0]))(*jax.vjp(predict, x)))(X, ct)
    np.testing.assert_allclose(got, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pullback, gradient, rtol=1e-5, atol=1e-6)


def test_the_jacobian_under_vmap(torch):
    module = net(torch)
    predict = from_torch_module(module, 4)
    jacobian = jax.jit(jax.vmap(jax.jacrev(lambda x: predict(x[None])[0])))(X)
    for k, basis in enumerate(np.eye(4, dtype=np.float32)):
        _, gradient = reference(torch, module, X, np.tile(basis, (5, 1)))
        np.testing.assert_allclose(jacobian[:, k], gradient, rtol=1e-5, atol=1e-6)


def test_attacks_craft_and_similarity_take_it_for_a_surrogate(torch):
    module = net(torch)
    weights = [
        p.detach().numpy().copy()
        for p in (module[0].weight, module[0].bias, module[5].weight, module[5].bias)
    ]

    def same(x):  # the same net in JAX
        kernel, bias, dense, offset = weights
        y = jax.lax.conv_general_dilated(x, kernel.transpose(2, 3, 1, 0), (1, 1), "VALID",
                                         dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias  # fmt: skip
        y = jnp.tanh(y / np.sqrt(1 + 1e-5)).transpose(0, 3, 1, 2).reshape(len(x), -1)
        return y @ dense.T + offset

    predict = from_torch_module(module)
    for attack in (attacks.mi_fgsm(0.1, steps=2), attacks.pgn(0.1, steps=2, neighbors=2)):
        run = jax.jit(lambda predict, x, y, attack=attack: attack(jax.random.key(0), predict, x, y))
        np.testing.assert_allclose(
            run(predict, X, LABELS), run(jax.tree_util.Partial(same), X, LABELS), atol=1e-5
        )
    crafted = attacks.craft(attacks.fgsm(0.1), predict, data.Dataset(IMAGES, np.array(LABELS), num_classes=4))
    assert np.abs(crafted.images.astype(int) - IMAGES).max() == 25  # of 25.5, rounded inside the ball
    np.testing.assert_allclose(metrics.gradient_similarity(predict, same, X, LABELS), 1, atol=1e-5)


def in_jax(weight, x):
    """A net whose Hessian is no Gauss-Newton part alone, as `quadratic` is in PyTorch."""
    z = x.reshape(len(x), -1) @ weight
    return z + 0.5 * z**2


def quadratic(torch, weight):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(weight))

        def forward(self, x):
            z = x.permute(0, 2, 3, 1).flatten(1) @ self.weight
            return z + 0.5 * z**2

    return Net()


@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_curvature_is_that_of_the_analytic_hessian(torch, run):
    weight = RNG.normal(size=(48, 4)).astype(np.float32) / 7
    predict, same = from_torch_module(quadratic(torch, weight)), jax.tree_util.Partial(in_jax, weight)
    loss = lambda x, y: losses.cross_entropy(in_jax(weight, x[None]), y[None])[0]  # noqa: E731
    hessians = jax.vmap(jax.hessian(loss))(X, LABELS).reshape(5, 48, 48)
    found = np.linalg.eigvalsh(hessians)
    expected = np.take_along_axis(found, np.argsort(-np.abs(found), 1)[:, :2], 1)
    values = run(lambda p, x, y: metrics.input_hessian_eigenvalues(p, x, y, 2, tol=1e-6))(predict, X, LABELS)
    np.testing.assert_allclose(values, expected, rtol=1e-3)
    residual = lambda p: metrics.input_hessian_eigenvalues(p, X, LABELS, part="residual")  # noqa: E731
    np.testing.assert_allclose(residual(predict), residual(same), rtol=1e-3)


def test_the_gradient_of_a_gradient_under_vmap_and_of_a_linear_net(torch):
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))
    square = lambda predict, x: (jax.grad(lambda x: predict(x)[:, 0].sum())(x) ** 2).sum()  # noqa: E731
    np.testing.assert_array_equal(jax.grad(lambda x: square(from_torch_module(linear), x))(X), 0 * X)
    weight = RNG.normal(size=(48, 4)).astype(np.float32) / 7
    each = lambda predict: jax.vmap(jax.grad(lambda x: square(predict, x[None])))(X)  # noqa: E731
    same = each(jax.tree_util.Partial(in_jax, weight))
    np.testing.assert_allclose(each(from_torch_module(quadratic(torch, weight))), same, atol=1e-5)


def test_attention_has_a_second_derivative(torch):
    class Attention(torch.nn.Module):
        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)[:, None]
            return torch.nn.functional.scaled_dot_product_attention(x, x, x).sum((1, 2))

    values = metrics.input_hessian_eigenvalues(from_torch_module(Attention()), X, LABELS)
    assert np.isfinite(values).all()
    assert np.abs(values).min() > 0


def test_what_pytorch_or_jax_cannot_differentiate_is_refused(torch):
    predict = from_torch_module(net(torch))
    loss = lambda x: metrics.input_gradient(predict, x, LABELS).sum()  # noqa: E731
    assert np.isfinite(jax.grad(loss)(X)).all()
    with pytest.raises(
        TypeError, match=r"first and second derivatives alone: a third one needs a net in JAX"
    ):
        jax.grad(lambda x: jax.grad(loss)(x).sum())(X)

    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, ct):
            return 2 * ct

    class Other(torch.nn.Module):
        def forward(self, x):
            return (x**2 + Once.apply(x) ** 2).flatten(1)

    with pytest.raises(TypeError, match=r"PyTorch has no second derivative of Other: .*once_differentiable"):
        metrics.input_hessian_eigenvalues(from_torch_module(Other()), X, LABELS)


def test_it_is_in_evaluation_mode_and_stays_there(torch):
    module = net(torch)
    assert module.training
    predict = from_torch_module(module)
    np.testing.assert_array_equal(predict(X), predict(X))  # dropout rests
    module.train()
    with pytest.raises(ValueError, match=r"in training mode again: all of it \(Sequential\), 0 \(Conv2d\)"):
        predict(X)
    module.eval()
    module[3].train()
    with pytest.raises(ValueError, match=r"parts of the module are in training mode: 3 \(Dropout\)"):
        from_torch_module(module)


def test_a_target_without_a_gradient_says_so(torch):
    class Frozen(torch.nn.Module):
        def forward(self, x):
            return x.detach().flatten(1)

    predict = from_torch_module(Frozen())
    assert predict(X).shape == (5, 48)
    with pytest.raises(ValueError, match="no gradient with respect to its images"):
        jax.grad(lambda x: predict(x).sum())(X)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_precision(torch, dtype):
    module = net(torch)
    run = lambda predict: jax.vjp(predict, X)[1](jnp.ones((5, 4)))[0]  # noqa: E731
    expected = from_torch_module(module)(X), run(from_torch_module(module))
    other = from_torch_module(module.to(getattr(torch, dtype)))
    tolerance = {"float16": 3e-3, "bfloat16": 3e-2, "float64": 1e-6}[dtype]
    for got, wanted in zip((other(X), run(other)), expected, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, wanted, atol=tolerance)


def test_preprocessing_lies_inside_and_budgets_outside(torch):
    module = net(torch)
    seen = Preprocessing(size=4, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channels="BGR", classes=(3, 1))
    predict = seen(from_torch_module(module))
    big = jnp.asarray(RNG.random((2, 6, 9, 3)), jnp.float32)
    assert jax.jit(predict)(big).shape == (2, 2)
    images = jax.jit(attacks.bim(0.05, 2))(jax.random.key(0), predict, big, jnp.array([0, 1]))
    assert 0 < np.abs(images - big).max() <= 0.05 + 1e-6


class Named(NamedTuple):
    features: Any
    logits: Any


class Output:
    """As the models of transformers return it, without being a dictionary."""

    def __init__(self, logits):
        self.loss, self.logits = None, logits


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits, other: logits,
        lambda logits, other: (other, logits),
        lambda logits, other: [logits],
        lambda logits, other: {"out": logits, "features": other},
        lambda logits, other: {"aux": logits + 1, "logits": logits},
        lambda logits, other: Named(logits + 1, logits),
        lambda logits, other: Output(logits),
    ],
)
def test_logits_are_found_in_what_a_module_returns(wrap):
    logits, other = np.arange(8.0).reshape(2, 4), np.zeros((2, 5))
    np.testing.assert_array_equal(find_logits(wrap(logits, other), 2, 4), logits)


def test_gradients_pass_through_what_a_module_returns(torch):
    class Wrapped(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return {"features": x, "logits": self.inner(x)}

    module = net(torch)
    run = lambda predict: jax.grad(lambda x: predict(x)[:, 1].sum())(X)  # noqa: E731
    np.testing.assert_array_equal(run(from_torch_module(Wrapped(module))), run(from_torch_module(module)))


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (np.zeros((2, 5)), r"ndarray \[2, 5\]: check num_classes"),
        (np.zeros(4), r"ndarray \[4\]"),
        ((np.zeros((2, 4)), np.zeros((2, 4))), r"0 \[2, 4\], 1 \[2, 4\]"),
        ({"features": np.zeros((2, 5))}, r"features \[2, 5\]"),
        (None, r"NoneType \['\?'\]"),
    ],
)
def test_what_holds_no_logits_or_several_is_shown(output, found):
    with pytest.raises(ValueError, match=rf"expected logits \[2, 4\], .*gave {found}"):
        find_logits(output, 2, 4)


def test_other_logits_are_refused_before_the_program_runs(torch):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 4))
    predict = from_torch_module(module, 10)
    x = jnp.zeros((8, 4, 4, 3))
    for call in (predict, jax.jit(predict), jax.vmap(lambda x: predict(x[None]))):
        with pytest.raises(
            ValueError, match=r"expected logits \[\d, 10\], .*Tensor \[\d, 4\]: check num_classes"
        ):
            call(x)


def test_without_pytorch_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"PyTorch modules: pip install 'transferjax\[torch\]'"):
        from_torch_module(object())
