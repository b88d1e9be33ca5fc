"""Which order of a convolution's sums is the fastest on this CPU? The table of `models/conv/orderings.py`.

    python benchmarks/orderings.py [--batch 32] [--rounds 7]

For each shape a convolution, the cotangent of its image and that of its kernel, in XLA's kernel and in the
order that competes with it. The two take turns; medians. Writes `benchmarks/results/orderings.json`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import transferjax  # noqa: F401  chooses XLA's fusions, before JAX starts

# isort: split
import jax
import jax.numpy as jnp
import numpy as np
from conv import device_name
from jax import lax
from jax.interpreters import ad

from transferjax.models.conv import orderings
from transferjax.models.conv.orderings import NHWC
from transferjax.models.conv.primitive import _transpose_w, _transpose_x, conv_p

SHAPES = [  # side, channels, features, kernel, stride
    (32, 64, 64, 3, 1),
    (16, 128, 128, 3, 1),
    (8, 256, 256, 3, 1),
    (4, 512, 512, 3, 1),
    (32, 64, 256, 1, 1),
    (16, 512, 128, 1, 1),
    (32, 64, 128, 1, 2),
]
SUMS = ("y", "cotangent of x", "cotangent of w")


def direct(x, w, *, strides, pads, dilation, spread, precision):
    return lax.conv_general_dilated(x, w, strides, pads, spread, dilation, NHWC, precision=precision)


def ordered(x, w, **how):
    """The competing order, wherever there is one for the shape."""
    with mock.patch.multiple(orderings, _WIDE=1, _TILES=1):
        return orderings.convolve(x, w, **how)


def sums(order: Callable, kernel: int, stride: int) -> dict[str, Callable]:
    pads = ((kernel // 2, kernel // 2),) * 2
    how = {"strides": (stride,) * 2, "pads": pads, "dilation": (1, 1), "spread": (1, 1), "precision": None}

    def undefined(a: jax.Array) -> ad.UndefinedPrimal:
        return ad.UndefinedPrimal(jax.typeof(a))

    runs = (
        lambda x, w, ct: order(x, w, **how),
        lambda x, w, ct: _transpose_x(ct, undefined(x), w, **how),
        lambda x, w, ct: _transpose_w(ct, x, undefined(w), **how),
    )

    def in_this_order(run: Callable) -> Callable:
        def traced(*arrays: jax.Array) -> jax.Array:
            with mock.patch.object(conv_p, "bind", order):
                return run(*arrays)

        return jax.jit(traced)

    return dict(zip(SUMS, map(in_this_order, runs), strict=True))


def measure(shape: tuple[int, ...], batch: int, rounds: int) -> dict[str, dict[str, float]]:
    side, channels, features, kernel, stride = shape
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((batch, side, side, channels)), jnp.float32)
    w = jnp.asarray(rng.standard_normal((kernel, kernel, channels, features)), jnp.float32)
    ct = jnp.asarray(rng.standard_normal((batch, side // stride, side // stride, features)), jnp.float32)
    runs = {"XLA": sums(direct, kernel, stride), "order": sums(ordered, kernel, stride)}
    found: dict[str, dict[str, float]] = {}
    for name in SUMS:
        seconds: dict[str, list[float]] = {which: [] for which in runs}
        for _ in range(rounds + 1):
            for which, run in runs.items():
                start = time.perf_counter()
                run[name](x, w, ct).block_until_ready()
                seconds[which].append(time.perf_counter() - start)
        found[name] = {which: 1e3 * statistics.median(times[1:]) for which, times in seconds.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "orderings.json")
    flags = parser.parse_args()
    results = {}
    for shape in SHAPES:
        side, channels, features, kernel, stride = shape
        name = (
            f"{kernel} x {kernel}, {channels} -> {features} channels, {side} x {side} pixels, stride {stride}"
        )
        results[name] = measure(shape, flags.batch, flags.rounds)
        row = " / ".join(f"{found['XLA']:.1f} -> {found['order']:.1f}" for found in results[name].values())
        print(f"{name}: {row} ms", flush=True)
    settings = {"batch": flags.batch, "rounds": flags.rounds}
    report = {"device": device_name(), "jax": jax.__version__, "settings": settings, "milliseconds": results}
    flags.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
