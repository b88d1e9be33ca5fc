"""Which order of a convolution's sums is the fastest on this CPU? The table of `models/conv/orderings.py`.

    python benchmarks/orderings.py [--batch 32] [--rounds 7]

For each shape a convolution, the cotangent of its image and that of its kernel, in XLA's kernel and in the
order that competes with it.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import Contender
from jax import lax
from jax.interpreters import ad

from transferjax.models.conv import orderings
from transferjax.models.conv.orderings import NHWC
from transferjax.models.conv.primitive import _transpose_w, _transpose_x, conv_p

SHAPES = [  # side, channels, features, kernel, stride, and what has an order of its own
    (32, 64, 64, 3, 1, "y x w"),
    (16, 128, 128, 3, 1, "y x w"),
    (8, 256, 256, 3, 1, "y x w"),
    (4, 512, 512, 3, 1, "y x w"),
    (32, 64, 256, 1, 1, "w"),
    (16, 512, 128, 1, 1, "w"),
    (32, 64, 128, 1, 2, "w"),
]
NAMES = {"y": "the convolution", "x": "cotangent of the image", "w": "cotangent of the kernel"}


def xla(x, w, *, strides, pads, dilation, spread, precision):
    return lax.conv_general_dilated(x, w, strides, pads, spread, dilation, NHWC, precision=precision)


def own(x, w, **how):
    with mock.patch.multiple(orderings, _WIDE=1, _TILES=1):
        return orderings.convolve(x, w, **how)


def make(
    order: str, what: str, batch: int, side: int, channels: int, features: int, kernel: int, stride: int
):
    rng = np.random.default_rng(0)
    x, w, ct = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in (
            (batch, side, side, channels),
            (kernel, kernel, channels, features),
            (batch, side // stride, side // stride, features),
        )
    )
    pads = ((kernel // 2, kernel // 2),) * 2
    how: dict[str, Any] = {"strides": (stride, stride), "pads": pads, "dilation": (1, 1), "spread": (1, 1)}
    how["precision"] = None
    convolve = {"XLA": xla, "own": own}[order]
    image, weights = (ad.UndefinedPrimal(jax.typeof(a)) for a in (x, w))
    run: Callable = {
        "y": lambda x, w, ct: convolve(x, w, **how),
        "x": lambda x, w, ct: _transpose_x(ct, image, w, **how),
        "w": lambda x, w, ct: _transpose_w(ct, x, weights, **how),
    }[what]
    with mock.patch.object(conv_p, "bind", convolve):
        compiled = jax.jit(run).lower(x, w, ct).compile()
    return lambda: jax.block_until_ready(compiled(x, w, ct))


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--batch", type=int, default=32)
    flags = parser.parse_args()
    cases = {}
    for side, channels, features, kernel, stride, sums in SHAPES:
        shape = (flags.batch, side, channels, features, kernel, stride)
        arguments = dict(
            zip(("batch", "side", "channels", "features", "kernel", "stride"), shape, strict=True)
        )
        for what in sums.split():
            name = f"{kernel} x {kernel}, {channels} to {features} channels, {side} x {side}, stride {stride}"
            cases[f"{name}: {NAMES[what]}"] = [
                Contender(order, make, {"order": order, "what": what, **arguments})
                for order in ("XLA", "own")
            ]
    harness.run("orderings", "Which order of a convolution's sums is the fastest on this CPU?", cases, flags)


if __name__ == "__main__":
    main()
