"""Is PGD in `lax.scan` as fast as a Python loop on CPU? Ours against plain `nn.Conv`.

    python benchmarks/conv.py [--batch 32] [--steps 5] [--rounds 5]

PGD steps (input gradient of the cross-entropy, sign, projection) on `cifar_resnet18`, once as a scan and once
as a Python loop over the jitted step, with `transferjax.models.conv` and with `lax.conv_general_dilated`.
"""

from collections.abc import Callable
from unittest import mock

import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import Contender
from jax import lax

from transferjax import models
from transferjax.losses import cross_entropy
from transferjax.models import layers
from transferjax.typing import Array, Predict

CONVOLUTIONS = {"ours": layers.conv_general_dilated, "lax": lax.conv_general_dilated}


def pgd_step(predict: Predict, x: Array, x0: Array, labels: Array) -> Array:
    gradient = jax.grad(lambda x: cross_entropy(predict(x), labels).sum())(x)
    x = x0 + jnp.clip(x + 2 / 255 * jnp.sign(gradient) - x0, -8 / 255, 8 / 255)
    return jnp.clip(x, 0, 1)


def make(convolution: str, loop: str, batch: int, steps: int) -> Callable[[], Array]:
    module = models.build("cifar_resnet18")
    images = jnp.asarray(np.random.default_rng(0).random((batch, 32, 32, 3), np.float32))
    labels = jnp.arange(batch) % 10
    predict = models.predictor(module, jax.jit(module.init)(jax.random.key(0), images))

    def traced(function: Callable) -> Callable:
        def with_this_convolution(*args: object) -> Array:
            with mock.patch.object(layers, "conv_general_dilated", CONVOLUTIONS[convolution]):
                return function(*args)

        return jax.jit(with_this_convolution)

    step = traced(pgd_step)

    def looped(predict: Predict, x0: Array, labels: Array) -> Array:
        x = x0
        for _ in range(steps):
            x = step(predict, x, x0, labels)
        return x

    @traced
    def scanned(predict: Predict, x0: Array, labels: Array) -> Array:
        return lax.scan(lambda x, _: (pgd_step(predict, x, x0, labels), None), x0, length=steps)[0]

    run = {"scan": scanned, "Python loop": looped}[loop]
    return lambda: run(predict, images, labels).block_until_ready()


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    flags = parser.parse_args()
    sizes = {"batch": flags.batch, "steps": flags.steps}
    contenders = [
        Contender(f"{convolution}, {loop}", make, {"convolution": convolution, "loop": loop, **sizes})
        for convolution in CONVOLUTIONS
        for loop in ("scan", "Python loop")
    ]
    question = "Is PGD in a scan as fast as in a Python loop, and our convolution as lax's?"
    harness.run("conv", question, {f"PGD, {flags.steps} steps, batch {flags.batch}": contenders}, flags)


if __name__ == "__main__":
    main()
