"""Is the attack loop, one `lax.scan`, as fast as a Python loop over the jitted step?

XLA's CPU backend compiles the gradients of convolutions inside loops to naive code; the nets' own convolution
rule avoids that. This measures both loops, and the scan with Flax's plain convolution for comparison.

    python benchmarks/ascend.py [--model cifar_resnet18] [--batch 32] [--steps 10] [--repeats 5]
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp

from transferjax import attacks, models
from transferjax.attacks import gradient_of
from transferjax.attacks.projections import linf
from transferjax.attacks.updates import steepest

RESULTS = Path(__file__).parent / "results"
EPS, STEP = 8 / 255, 2 / 255


def python_loop(steps):
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


def plain_convolutions():
    """The same net with XLA's own gradients of convolutions."""
    return mock.patch("transferjax.models.layers.conv_general_dilated", jax.lax.conv_general_dilated)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="cifar_resnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    module = models.build(arguments.model)
    key = jax.random.key(0)
    images = jax.random.uniform(key, (arguments.batch, 32, 32, 3))
    labels = jnp.arange(arguments.batch, dtype=jnp.int32) % 10
    variables = jax.jit(module.init)(key, images)
    predict = models.predictor(module, variables)
    scan = attacks.bim(EPS, arguments.steps, step_size=STEP)
    compiled = {"scan": jax.jit(scan).lower(key, predict, images, labels).compile()}
    loop = python_loop(arguments.steps)
    loop(key, predict, images, labels)
    with plain_convolutions():
        compiled["scan, plain convolutions"] = (
            jax.jit(lambda *inputs: scan(*inputs)).lower(key, predict, images, labels).compile()
        )

    seconds = {name: [] for name in ("python loop", *compiled)}
    for repeat in range(arguments.repeats):  # side by side, so that a busy machine slows all alike
        for name, attack in (("python loop", loop), *compiled.items()):
            if "plain" in name and repeat >= 2:
                continue
            begin = time.perf_counter()
            jax.block_until_ready(attack(key, predict, images, labels))
            seconds[name].append(time.perf_counter() - begin)

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "model": arguments.model,
        "batch": arguments.batch,
        "steps": arguments.steps,
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}, {jax.default_backend()}",
        "jax": jax.__version__,
        "median_seconds": medians,
        "images_per_second": {name: arguments.batch / value for name, value in medians.items()},
        "time_relative_to_python_loop": {name: v / medians["python loop"] for name, v in medians.items()},
        "largest_pixel_difference": float(
            jnp.abs(compiled["scan"](key, predict, images, labels) - loop(key, predict, images, labels)).max()
        ),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "ascend.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
