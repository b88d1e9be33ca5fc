"""Gradients of vision transformers: the same logits, and of the gradient what was promised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import models
from transferjax.models import vit
from transferjax.predicts import att, pna, tgr
from transferjax.predicts.modules import tapped
from transferjax.predicts.tokens import _part, _scale_extreme_lines, _scale_extremes, _Tokens


@pytest.fixture(scope="module")
def x():
    return jax.random.uniform(jax.random.key(1), (3, 8, 8, 3))


@pytest.fixture(scope="module")
def net(x):
    module = vit.ViT(num_classes=5, image_size=8, patch=4, depth=2, width=8, heads=2, hidden=16)
    return models.predictor(module, jax.jit(module.init)(jax.random.key(0), x[:1]))


def gradient(predict, x):
    return jax.grad(lambda x: predict(x)[:, 0].sum())(x)


@pytest.mark.parametrize("wrap", [tgr, pna, att])
def test_logits_stay_and_gradients_are_each_images_own(wrap, net, x):
    np.testing.assert_allclose(wrap(net)(x), net(x), rtol=1e-6)
    grads = gradient(wrap(net), x)
    assert np.abs(grads - gradient(net, x)).max() > 1e-4
    np.testing.assert_allclose(gradient(wrap(net), x[1:2]), grads[1:2], rtol=1e-4, atol=1e-7)
    assert jax.tree.structure(wrap(net)) == jax.tree.structure(wrap(net))


def test_attention_that_is_not_paid_is_a_constant(net, x, monkeypatch):
    """As if the weights of the attention were given: a softmax through which nothing comes back."""
    found = gradient(pna(net), x)
    softmax = jax.nn.softmax
    np.testing.assert_allclose(gradient(pna(net, 1.0), x), gradient(net, x), rtol=1e-5, atol=1e-7)
    monkeypatch.setattr(vit.jax.nn, "softmax", lambda scores: jax.lax.stop_gradient(softmax(scores)))
    np.testing.assert_allclose(found, gradient(net, x), rtol=1e-5, atol=1e-7)


def test_factors_alone_scale_what_comes_back(net, x):
    """With nothing cut off, a factor of 0 is a constant in the place of what the MLPs give."""
    wrapped = jax.tree_util.Partial(_Tokens(1.0, 1.0, 0.0, False), net)
    constant = lambda module, y: jax.lax.stop_gradient(y) if module.name == "mlp" else y  # noqa: E731
    without = gradient(lambda x: tapped(net, x, constant), x)
    np.testing.assert_allclose(gradient(wrapped, x), without, rtol=1e-5, atol=1e-7)
    assert np.abs(without - gradient(net, x)).max() > 1e-4


def test_extremes_are_cut_off():
    grads = jnp.array([[3.0, -1.0], [0.5, 2.0], [-4.0, 1.0], [1.0, 0.0]])[None]
    expected = [[0, 0], [0.5, 0], [0, 1.0], [1.0, 0.0]]
    np.testing.assert_array_equal(_scale_extremes(grads)[0], expected)
    matrix = jnp.arange(16.0).reshape(4, 4).at[1, 2].set(50).at[3, 0].set(-50)
    expected = np.array(matrix)
    expected[[1, 3]] = 0
    expected[:, [2, 0]] = 0
    both = _scale_extreme_lines(jnp.stack([matrix, matrix.T])[None])[0]
    np.testing.assert_array_equal(both, np.stack([expected, expected.T]))
    halved = np.array(matrix)
    for line in (halved[1], halved[:, 2], halved[3], halved[:, 0]):  # one after the other
        line *= 0.5
    np.testing.assert_array_equal(_scale_extreme_lines(matrix, 0.5), halved)
    halved = np.array(grads[0])
    halved[[0, 2, 1, 0], [0, 0, 1, 1]] *= 0.5
    np.testing.assert_array_equal(_scale_extremes(grads, 0.5)[0], halved)
    grid = grads.reshape(1, 2, 2, 2)  # the same tokens, of an image
    np.testing.assert_array_equal(_scale_extremes(grid, jnp.full((1, 1, 1, 1), 0.5))[0].reshape(4, 2), halved)


OTHERS = {
    "pit_ti_224": {
        "image_size": 8,
        "patch": 4,
        "stride": 2,
        "blocks": (1, 1),
        "heads": (1, 2),
        "head_width": 4,
    },
    "visformer_tiny": {
        "image_size": 32,
        "blocks": (1, 1, 1),
        "width": 16,
        "heads": 2,
        "stem_width": 4,
        "groups": 2,
    },
    "swin_tiny_patch4_window7_224": {
        "image_size": 8,
        "patch": 2,
        "blocks": (2,),
        "heads": (2,),
        "width": 8,
        "window": 2,
    },
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_transformers_have_the_same_parts(name):
    """Blocks of every family: each with an attention, and tokens that lie in a row, a grid or in windows."""
    module = models.build(name, num_classes=5, **OTHERS[name])
    x = jax.random.uniform(jax.random.key(1), (2, module.image_size, module.image_size, 3))
    predict = models.predictor(module, jax.jit(module.init)(jax.random.key(0), x[:1]))
    found = []
    tapped(predict, x, lambda module, y: (found.append(_part(module)), y)[1])
    blocks = module.blocks[1:] if name == "visformer_tiny" else module.blocks  # its first stage convolves
    assert [part for part in found if part] == ["qkv", "attention", "mlp"] * sum(blocks)
    for wrap in (tgr, pna, att):
        np.testing.assert_allclose(wrap(predict)(x), predict(x), rtol=1e-6)
        grads = gradient(wrap(predict), x)
        assert np.isfinite(grads).all()
        assert np.abs(grads - gradient(predict, x)).max() > 0
        np.testing.assert_allclose(gradient(wrap(predict), x[1:]), grads[1:], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("wrap", [tgr, pna, att])
def test_nets_without_attention_are_refused(wrap):
    module = models.build("cifar_resnet18", blocks=(1, 1), width=4)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    predict = models.predictor(module, jax.tree.map(lambda a: jnp.zeros(a.shape), variables))
    with pytest.raises(ValueError, match="this net has no attention"):
        wrap(predict)(jnp.zeros((1, 8, 8, 3)))


# Adaptive token tuning against a backward pass written out block by block, of one image


class Tuning:
    """What the official code's hooks do to gradients, the variances kept in a table."""

    def __init__(self, factors, gamma, weight, truncated):
        self.factors, self.gamma, self.weight, self.left = factors, gamma, weight, truncated
        self.variances = dict.fromkeys(factors, 0.0)

    def __call__(self, part, grads):
        grads = np.array(grads, np.float64) * self.factors[part]
        if part == "attention":
            grads *= self.left <= 0
            self.left -= 1
        kept, before = self.gamma, self.variances[part]
        if before:
            kept = np.clip(self.gamma + self.weight * (1 - np.sqrt(grads.var(ddof=1) / before)), 0, 1)
        for index in np.ndindex(grads.shape[:-2]):
            self.scale(grads[index], kept, lines=part == "attention")
        self.variances[part] = grads.var(ddof=1)
        return grads

    @staticmethod
    def scale(grads, kept, lines):
        if not lines:
            for column in grads.T:
                column[[column.argmax(), column.argmin()]] *= kept
            return
        for i, j in [np.unravel_index(at, grads.shape) for at in (grads.argmax(), grads.argmin())]:
            grads[i] *= kept
            grads[:, j] *= kept


def dense(weights, x):
    return x @ weights["kernel"] + weights["bias"]


def normed(weights, x):
    x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weights["scale"] + weights["bias"]


def block_backwards(weights, x, heads, tune):
    """A block's output, and its gradient with what comes back to three places tuned."""
    attn, mlp = weights["attn"], weights["mlp"]
    apart = lambda a: a.reshape(len(a), heads, -1).swapaxes(0, 1)  # noqa: E731
    qkv, to_x = jax.vjp(lambda x: dense(attn["qkv"], normed(weights["norm1"], x)), x)
    scores = lambda q, k: jax.nn.softmax(q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5)  # noqa: E731
    (q, k, v), to_qkv = jax.vjp(lambda a: tuple(map(apart, jnp.split(a, 3, -1))), qkv)
    paid, to_qk = jax.vjp(scores, q, k)
    seen, to_paid = jax.vjp(
        lambda paid, v: dense(attn["proj"], (paid @ v).swapaxes(0, 1).reshape(x.shape)), paid, v
    )
    middle = x + seen
    inner = lambda z: dense(mlp["fc1"], normed(weights["norm2"], z))  # noqa: E731
    made, to_middle = jax.vjp(lambda z: dense(mlp["fc2"], jax.nn.gelu(inner(z), approximate=False)), middle)

    def back(grads):
        grads = grads + to_middle(jnp.asarray(tune("mlp", grads), grads.dtype))[0]
        to_weights, to_v = to_paid(grads)
        to_q, to_k = to_qk(jnp.asarray(tune("attention", to_weights), grads.dtype))
        (joint,) = to_qkv((to_q, to_k, to_v))
        return grads + to_x(jnp.asarray(tune("qkv", joint), grads.dtype))[0]

    return middle + made, back


def tuned_gradient(predict, image, heads, patch, tune):
    weights = predict.args[0]["params"]

    def embedded(image):
        side = len(image) // patch
        grid = image.reshape(side, patch, side, patch, 3).swapaxes(1, 2).reshape(side**2, -1)
        stem = weights["patch_embed.proj"]
        tokens = grid @ stem["kernel"].reshape(-1, stem["kernel"].shape[-1]) + stem["bias"]
        return jnp.concatenate([weights["cls_token"][0], tokens]) + weights["pos_embed"][0]

    x, to_image = jax.vjp(embedded, image)
    backs = []
    for i in range(sum(name.startswith("blocks.") for name in weights)):
        x, back = block_backwards(weights[f"blocks.{i}"], x, heads, tune)
        backs.append(back)
    grads = jax.grad(lambda x: dense(weights["head"], normed(weights["norm"], x[0]))[0])(x)
    for back in reversed(backs):
        grads = back(grads)
    return to_image(grads)[0]


@pytest.fixture(scope="module")
def deep(x):
    """Four blocks with heads that look at something: weights larger than those that a net begins with."""
    module = vit.ViT(num_classes=5, image_size=8, patch=4, depth=4, width=8, heads=2, hidden=16)
    variables = jax.jit(module.init)(jax.random.key(3), x[:1])
    return models.predictor(module, jax.tree.map(lambda a: 1.7 * a, variables))


@pytest.mark.parametrize(("weight", "truncated"), [(0.01, 2), (0.4, 1), (0.4, 0), (5.0, 4)])
def test_token_tuning_is_the_backward_pass_by_hand(weight, truncated, deep, x):
    wrapped = att(deep, weight=weight, truncated=truncated)
    found = gradient(wrapped, x)
    for one, image in zip(found, x, strict=True):
        tune = Tuning({"attention": 0.45, "qkv": 0.7, "mlp": 0.65}, 0.5, weight, truncated)
        expected = tuned_gradient(deep, image, 2, 4, tune)
        np.testing.assert_allclose(one, expected, rtol=2e-3, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(jax.jit(gradient)(wrapped, x), found, rtol=1e-3, atol=1e-6)
    each = jax.vmap(lambda image: gradient(wrapped, image[None])[0])(x)
    np.testing.assert_allclose(each, found, rtol=1e-3, atol=1e-6)


def test_token_tuning_that_changes_nothing(deep, x):
    """Factors of 1 and γ = 1 without λ: the plain gradient."""
    plain = att(deep, 1.0, 1.0, 1.0, gamma=1.0, weight=0.0, truncated=0)
    np.testing.assert_allclose(gradient(plain, x), gradient(deep, x), rtol=1e-4, atol=1e-6)
    paid = att(deep, 1.0, 1.0, 1.0, gamma=1.0, weight=0.0, truncated=9)
    np.testing.assert_allclose(gradient(paid, x), gradient(pna(deep), x), rtol=1e-4, atol=1e-6)


def test_token_tuning_of_gradients_whose_squares_vanish(deep, x):
    """Deviations are no roots of variances that float32 cannot hold."""
    small = jax.grad(lambda x: (1e-25 * att(deep, weight=0.4)(x)[:, 0]).sum())(x)
    usual = gradient(att(deep, weight=0.4), x)
    np.testing.assert_allclose(1e25 * small, usual, rtol=1e-3, atol=1e-6)
