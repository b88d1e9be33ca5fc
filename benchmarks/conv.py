"""Is PGD in `lax.scan` as fast as a Python loop on CPU? Ours against plain `nn.Conv`.

    python benchmarks/conv.py [--batch 32] [--steps 5] [--repeats 5]

PGD steps (input gradient of the cross-entropy, sign, projection) on `cifar_resnet18`, once as a scan and once
as a Python loop over the jitted step, with `transferjax.models.conv` and with `lax.conv_general_dilated`. The
four take turns, so drifts of the machine hit all alike. Writes `benchmarks/results/conv.json`.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from transferjax import models
from transferjax.losses import cross_entropy
from transferjax.models import layers
from transferjax.typing import Array, Predict

Attack = Callable[[Predict, Array, Array], Array]


def pgd_step(predict: Predict, x: Array, x0: Array, labels: Array) -> Array:
    gradient = jax.grad(lambda x: cross_entropy(predict(x), labels).sum())(x)
    x = x0 + jnp.clip(x + 2 / 255 * jnp.sign(gradient) - x0, -8 / 255, 8 / 255)
    return jnp.clip(x, 0, 1)


def loops(conv: Callable, steps: int) -> dict[str, Attack]:
    """Both forms of the loop, traced with `conv` as the nets' convolution."""

    def traced_with_conv(function: Callable) -> Callable:
        def traced(*args: object) -> Array:
            with mock.patch.object(layers, "conv_general_dilated", conv):
                return function(*args)

        return jax.jit(traced)

    def scanned(predict: Predict, x0: Array, labels: Array) -> Array:
        body = lambda x, _: (pgd_step(predict, x, x0, labels), None)  # noqa: E731
        return lax.scan(body, x0, length=steps)[0]

    step = traced_with_conv(pgd_step)

    def looped(predict: Predict, x0: Array, labels: Array) -> Array:
        x = x0
        for _ in range(steps):
            x = step(predict, x, x0, labels)
        return x

    return {"scan": traced_with_conv(scanned), "python loop": looped}


def measure(batch: int, steps: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds per step, the median of `repeats`, and the first call's (with compilation)."""
    module = models.build("cifar_resnet18")
    images = jnp.asarray(np.random.default_rng(0).random((batch, 32, 32, 3), np.float32))
    labels = jnp.arange(batch) % 10
    predict = models.predictor(module, jax.jit(module.init)(jax.random.key(0), images))
    runs = {
        f"{conv_name}, {loop_name}": loop
        for conv_name, conv in [("ours", layers.conv_general_dilated), ("lax", lax.conv_general_dilated)]
        for loop_name, loop in loops(conv, steps).items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(predict, images, labels).block_until_ready()
            seconds[name].append(time.perf_counter() - start)
    return {
        name: {"first_call_s": first, "seconds_per_step": statistics.median(rest) / steps}
        for name, (first, *rest) in seconds.items()
    }


def device_name() -> str:
    """The processor's own name where Linux tells it, and the cores this process may use."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "conv.json")
    flags = parser.parse_args()
    results = measure(flags.batch, flags.steps, flags.repeats)
    for name, row in results.items():
        step_ms, first = 1e3 * row["seconds_per_step"], row["first_call_s"]
        print(f"{name:20s} {step_ms:9.1f} ms/step   first call {first:.1f} s")
    report = {
        "device": device_name(),
        "jax": jax.__version__,
        "settings": {"batch": flags.batch, "steps": flags.steps, "repeats": flags.repeats},
        "results": results,
    }
    flags.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
