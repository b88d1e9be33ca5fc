"""The catalogue, continued: attacks on features in the middle of a net, and through features mixed in."""

import math
from collections.abc import Callable
from functools import partial
from typing import Unpack

import jax
import jax.numpy as jnp

from transferjax.attacks import blockwise, inputs
from transferjax.attacks.ascend import gradient_of
from transferjax.attacks.builders import given, smoothed, with_momentum
from transferjax.attacks.recipe import Momentum, recipe
from transferjax.attacks.rules import average, mix
from transferjax.attacks.vocabulary import loss_of
from transferjax.checks import check_images
from transferjax.losses import probabilities
from transferjax.norms import flat_unit
from transferjax.predicts.snapshots import of_each
from transferjax.predicts.stochastic import Stochastic, with_keys
from transferjax.random import fold_in, per_example, sample
from transferjax.typing import Array, Attack, Key, Predict, Rule

Looks = Callable[[Predict, Key, Array, Array, Callable[[Array, Key], Array]], Array]
"""(predict, keys, images, labels, ask) -> the sum of `ask(x, keys)` over the images that it looks at."""


def _importance(predict: Predict, layer: str, keys: Key, x: Array, labels: Array) -> Array:
    """`∂z_y / ∂f`: what the label's logit gains by each of the layer's features, shaped like these."""
    from transferjax.predicts.modules import with_features  # with Flax, which no other attack needs

    drawn = with_keys(predict, keys)
    _, features = jax.eval_shape(lambda x: with_features(drawn, layer, x), x)

    def logit(shift: Array) -> Array:
        logits, _ = with_features(drawn, layer, x, shift)
        return (probabilities(logits, labels) * logits).sum()

    return jax.grad(logit)(jnp.zeros(features.shape, features.dtype))


def _against_features(layer: str, looks: Looks, eps: float, steps: int, options: Momentum) -> Attack:
    """Down `⟨w, f(x)⟩`, w the direction of the features' importance, summed over `looks`."""
    from transferjax.predicts.modules import with_features

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        keys = fold_in(per_example(key, len(images)), 0)
        ask = lambda x, keys: _importance(predict, layer, keys, x, labels)  # noqa: E731
        weights = flat_unit(looks(predict, keys, images, labels, ask))

        def features(keys: Key, x: Array) -> Array:
            return with_features(with_keys(predict, keys), layer, x)[1].reshape(len(x), -1)

        run = with_momentum(eps=eps, steps=steps, **options | {"loss": lambda f, _: -(weights * f).sum(-1)})
        features_alone = Stochastic(features, jax.random.key(0))  # the loop brings its keys
        return run(key, features_alone, images, jnp.zeros_like(labels))  # features know no classes

    return attack


@recipe(without=("loss",), alone=True)
def fia(
    eps: float,
    steps: int = 10,
    *,
    layer: str,
    samples: int = 30,
    prob: float = 0.3,
    **options: Unpack[Momentum],
) -> Attack:
    """Feature importance: `min ⟨w, f(x)⟩`, w the direction of `Σ_n ∂z_y/∂f` at images with pixels dropped.

    What matters to the label whatever pixels are there is object, and not one net's noise.

    Args:
        layer: the end of the path of the Flax module whose features are attacked.
        samples: masked images; as many gradients, once.
        prob: of dropping a value of an image.

    Reference: Wang et al., "Feature Importance-aware Transferable Adversarial Attacks", ICCV 2021: steps of
    `eps / steps`, ten, 30 masks, 0.3, the last layer of the second of four stages. TransferAttack weighs by
    gradients of the label's probability.
    """

    def looks(_: Predict, keys: Key, x: Array, __: Array, ask: Callable[[Array, Key], Array]) -> Array:
        def masked(number: Array) -> Array:
            own = fold_in(keys, number)
            kept = sample(jax.random.bernoulli, fold_in(own, 0), 1 - prob, x.shape[1:])
            return ask(jnp.where(kept, x, 0), fold_in(own, 1))

        return _total(masked, samples)

    return _against_features(layer, looks, eps, steps, options)


def _total(term: Callable[[Array], Array], count: int) -> Array:
    """`Σ_n term(n)`, one after the other."""
    zero = jnp.zeros((shape := jax.eval_shape(term, jnp.zeros((), jnp.int32))).shape, shape.dtype)
    return jax.lax.scan(lambda total, n: (total + term(n), None), zero, jnp.arange(count))[0]


@recipe(alone=True)
def bfa(
    eps: float,
    steps: int = 10,
    *,
    layer: str,
    samples: int = 30,
    radius: float = 28 / math.sqrt(3 * 224 * 224),
    **options: Unpack[Momentum],
) -> Attack:
    """Black-box features: as `fia`, w from images that the loss moved, `x_n = x + radius √d ĝ(x_{n-1})`.

    Args:
        layer: the end of the path of the Flax module whose features are attacked.
        samples: moved images; two gradients each, once.
        radius: root mean square of their distance from x, in pixel units; d is the number of values in an
            image, ĝ the loss's gradient made unit length.
        loss: which moves the images.

    Reference: Wang et al., "Improving the Transferability of Adversarial Examples through Black-box Feature
    Attacks", Neurocomputing 2024: steps of `eps / steps`, ten, 30 images at a distance of η = 28, of 224 x
    224.
    """
    loss, far = loss_of(options["loss"]), radius

    def looks(predict: Predict, keys: Key, x: Array, y: Array, ask: Callable[[Array, Key], Array]) -> Array:
        grad_fn = gradient_of(predict, loss, options["targeted"])
        length = far * math.sqrt(math.prod(x.shape[1:]))

        def step(carry: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
            at, total = carry
            own = fold_in(keys, number)
            grads = grad_fn(at, {}, fold_in(own, 0), y)[1]
            at = x + length * flat_unit(grads).reshape(x.shape).astype(x.dtype)
            return (at, total + ask(at, fold_in(own, 1))), None

        shape = jax.eval_shape(ask, x, keys)
        start = x, jnp.zeros(shape.shape, shape.dtype)
        return jax.lax.scan(step, start, jnp.arange(samples))[0][1]

    return _against_features(layer, looks, eps, steps, options)


@recipe(decay=0.0)
def ilpd(
    eps: float,
    steps: int = 100,
    *,
    layer: str,
    gamma: float = 0.1,
    sigma: float = 0.05,
    **options: Unpack[Momentum],
) -> Attack:
    """Intermediate-level perturbation decay: the loss at the features `γ f(x) + (1 - γ) f(x0 + σ n)`.

    Args:
        step_size: length of one step in the same norm; `eps / 8` if None.
        layer: the end of the path of the Flax module whose features are mixed.
        gamma: γ, how much of the attacked image's features is left.
        sigma: of the normal noise on the clean image, in pixel units, drawn at each gradient.

    Reference: Li et al., "Improving Adversarial Transferability via Intermediate-level Perturbation Decay",
    NeurIPS 2023: 100 steps of 1/255 at ε = 8/255, γ = 0.1, σ = 0.05, the last block of a ResNet-50's second
    stage.
    """
    from transferjax.predicts.modules import at_layer, with_features

    options["step_size"] = given(options["step_size"], eps / 8)

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        def decayed(net: Predict, keys: Key, x: Array) -> Array:
            noise = sample(jax.random.normal, fold_in(keys, 0), images.shape[1:], images.dtype)
            drawn = with_keys(net, fold_in(keys, 1))
            clean = jax.lax.stop_gradient(with_features(drawn, layer, images + sigma * noise)[1])
            return at_layer(drawn, layer, x, lambda f: gamma * f + (1 - gamma) * clean)[0]

        run = with_momentum(eps=eps, steps=steps, **options)
        nets = of_each(predict, lambda net: Stochastic(partial(decayed, net), jax.random.key(0)))
        return run(key, nets, images, labels)  # the loop brings its keys

    return attack


def _with_clean_features(
    pool: Array, prob: float, ratio: float, eps: float, steps: int, own: tuple[Rule, ...], options: Momentum
) -> Attack:
    """The recipe's rules around a net that mixes features of the pool in."""
    from transferjax.predicts.mixed import clean_features

    check_images(pool, "pool")
    options["step_size"] = given(options["step_size"], eps / 8)

    def attack(key: Key, predict: Predict, images: Array, labels: Array) -> Array:
        own_key = jax.random.key(0)  # the loop brings its keys
        mixed = of_each(predict, lambda net: clean_features(net, pool, own_key, prob, ratio))
        return with_momentum(*own, eps=eps, steps=steps, **options)(key, mixed, images, labels)

    return attack


@recipe(targeted=True, loss="logit")
def cfm(
    eps: float,
    steps: int = 300,
    *,
    pool: Array,
    prob: float = 0.1,
    ratio: float = 0.75,
    rate: float = 340 / 299,
    kernel_size: int = 5,
    **options: Unpack[Momentum],
) -> Attack:
    """Clean feature mixup with DI, TI and MI: the logit of a net that is disturbed; see `clean_features`.

    Args:
        step_size: length of one step in the same norm; `eps / 8` if None.
        pool: clean images `[P, H, W, C]`, whose features are mixed in.
        prob, ratio: of mixing at a layer, and how much at most.
        rate: of DI, always on, which comes back to the image's size.

    Reference: Byun et al., CVPR 2023: 300 steps of 2/255 at ε = 16/255, 0.1 and 0.75, sizes up to 340/299
    (to the nearest pixel), a kernel of 5.
    """
    own = smoothed(kernel_size), average(inputs.diversity(rate, 1.0, resize_back=True))
    return _with_clean_features(pool, prob, ratio, eps, steps, own, options)


@recipe(targeted=True, loss="logit")
def everywhere(
    eps: float,
    steps: int = 300,
    *,
    pool: Array,
    samples: int = 9,
    blocks: int = 4,
    prob: float = 0.1,
    ratio: float = 0.75,
    rate: float = 0.87,
    kernel_size: int = 5,
    chunk: int = 1,
    **options: Unpack[Momentum],
) -> Attack:
    """Everywhere: CFM at the image and at `samples` images of which one block is left; see `kept_blocks`.

    Args:
        step_size: length of one step in the same norm; `eps / 8` if None.
        pool: clean images `[P, H, W, C]`, whose features are mixed in.
        samples: N, images of one block.
        blocks: in each direction.
        prob, ratio: of mixing at a layer, and how much at most.
        rate: of DI, with probability 0.7.
        chunk: blocks at once; divides N.

    Reference: Zeng et al., "Everywhere Attack: Attacking Locally and Globally to Boost Targeted
    Transferability", AAAI 2025: 300 steps of 2/255 at ε = 16/255, 16 blocks, N = 9; DI from 195 of 224 pixels
    on. In TransferAttack, which has 3 x 3 blocks and N = 4, an image of one block is mixed with the same
    block of another; here with the whole of it.
    """
    local = average(blockwise.kept_blocks(blocks), samples, chunk=chunk)
    both = mix(1 / (samples + 1), samples / (samples + 1), local)
    own = smoothed(kernel_size), both, average(inputs.diversity(rate, 0.7))
    return _with_clean_features(pool, prob, ratio, eps, steps, own, options)
