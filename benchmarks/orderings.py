"""Which order of a convolution's sums is the fastest on this CPU? The table of `models/conv/orderings.py`.

    python benchmarks/orderings.py [--batch 32] [--rounds 7]

For each shape a convolution, the cotangent of its image and that of its kernel, in XLA's kernel and in the
order that competes with it.
"""

from collections.abc import Callable
from unittest import mock

import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import Contender
from jax import lax

from transferjax.models.conv import conv_general_dilated, orderings

SHAPES = [  # side, channels, features, kernel, stride, and what has an order of its own
    (32, 64, 64, 3, 1, "y x w"),
    (16, 128, 128, 3, 1, "y x w"),
    (8, 256, 256, 3, 1, "y x w"),
    (4, 512, 512, 3, 1, "y x w"),
    (2, 512, 512, 3, 1, "y x"),
    (1, 512, 512, 3, 1, "y x"),
    (32, 64, 256, 1, 1, "w"),
    (16, 512, 128, 1, 1, "w"),
    (32, 64, 128, 1, 2, "w"),
]
NAMES = {"y": "the convolution", "x": "cotangent of the image", "w": "cotangent of the kernel"}


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
    convolution = {"XLA": lax.conv_general_dilated, "own": conv_general_dilated}[order]
    pads = ((kernel // 2, kernel // 2),) * 2

    def convolve(x, w):
        return convolution(x, w, (stride, stride), pads, dimension_numbers=orderings.NHWC)

    run: Callable = {
        "y": lambda x, w, ct: convolve(x, w),
        "x": lambda x, w, ct: jax.vjp(lambda x: convolve(x, w), x)[1](ct)[0],
        "w": lambda x, w, ct: jax.vjp(lambda w: convolve(x, w), w)[1](ct)[0],
    }[what]
    with mock.patch.multiple(orderings, _WIDE=1, _TILES=1):
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
