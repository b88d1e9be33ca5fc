"""Is the attack loop, one `lax.scan`, as fast on CPU as a Python loop over its jitted step?

    python benchmarks/conv.py [--model cifar_resnet18] [--batch 32] [--steps 5] [--rounds 5]

XLA's CPU back end compiles the gradients of convolutions inside loops to naive code; the nets' own
convolution avoids that. BIM as a scan and as a Python loop, with `transferjax.models.conv` and with lax's.
"""

from collections.abc import Callable
from unittest import mock

import harness
import jax
import jax.numpy as jnp
from harness import Contender

from transferjax import attacks, models
from transferjax.attacks import gradient_of
from transferjax.attacks.projections import linf
from transferjax.attacks.updates import steepest
from transferjax.models import layers
from transferjax.typing import Array

EPS, STEP = 8 / 255, 2 / 255
CONVOLUTIONS = {"ours": layers.conv_general_dilated, "lax": jax.lax.conv_general_dilated}


def python_loop(steps: int) -> Callable[..., Array]:
    update, project = steepest("linf", STEP), linf(EPS)

    @jax.jit
    def step(x, predict, images, labels):
        _, grads = gradient_of(predict)(x, {}, None, labels)
        ups, _ = update.update(grads, update.init(x), x)
        return project(x + ups, images)

    def attack(key, predict, images, labels):
        x = images
        for _ in range(steps):
            x = step(x, predict, images, labels)
        return x

    return attack


def make(convolution: str, loop: str, model: str, batch: int, steps: int) -> Callable[[], Array]:
    module, key = models.build(model), jax.random.key(0)
    images = jax.random.uniform(key, (batch, 32, 32, 3))
    predict = models.predictor(module, jax.jit(module.init)(key, images))
    attack = jax.jit(attacks.bim(EPS, steps, step_size=STEP)) if loop == "scan" else python_loop(steps)

    def call() -> Array:
        with mock.patch.object(layers, "conv_general_dilated", CONVOLUTIONS[convolution]):
            return jax.block_until_ready(attack(key, predict, images, jnp.arange(batch) % 10))

    return call


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--model", default="cifar_resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    flags = parser.parse_args()
    sizes = {"model": flags.model, "batch": flags.batch, "steps": flags.steps}
    contenders = [
        Contender(f"{convolution}, {loop}", make, {"convolution": convolution, "loop": loop, **sizes})
        for convolution in CONVOLUTIONS
        for loop in ("scan", "Python loop")
    ]
    question = "Is an attack in a scan as fast as in a Python loop, and our convolution as lax's?"
    harness.run(
        "conv",
        question,
        {f"BIM on {flags.model}, {flags.steps} steps, batch {flags.batch}": contenders},
        flags,
    )


if __name__ == "__main__":
    main()
