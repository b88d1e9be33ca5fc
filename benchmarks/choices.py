"""What do the choices for CPU save? A training step with all of them, and without one at a time.

    python benchmarks/choices.py [--batch 64] [--rounds 7]

`memory given back`: `TRANSFERJAX_MALLOC=default`; `default fusions`: `TRANSFERJAX_FUSIONS=default` (both in
`transferjax.xla`); `XLA's pooling`: instead of `models.pooling`'s; `XLA's convolutions`: instead of
`models.conv`'s. ST on a narrow VGG, and on the nets of full width.
"""

from unittest import mock

import harness
import jax
import train_step
from harness import Contender

from transferjax.models import layers, pooling

NETS = {
    "cifar_vgg11, width 24": {"model": "cifar_vgg11", "width": 24, "blocks": (1, 1, 1, 1)},
    "cifar_vgg16": {"model": "cifar_vgg16"},
    "cifar_resnet18": {"model": "cifar_resnet18"},
}
WITHOUT = {
    "memory given back": {"TRANSFERJAX_MALLOC": "default"},
    "default fusions": {"TRANSFERJAX_FUSIONS": "default"},
}
PATCHES = {
    "XLA's pooling": (pooling, "runs_on_cpu", lambda: False),
    "XLA's convolutions": (layers, "conv_general_dilated", jax.lax.conv_general_dilated),
}


def step(patch: str = "", **net):
    """One training step; with the patch while it is traced."""
    run = train_step.ours("ST", **net)
    if patch:
        with mock.patch.object(*PATCHES[patch]):
            run()
    return run


def main() -> None:
    parser = harness.parser(__doc__, rounds=7)
    parser.add_argument("--batch", type=int, default=64)
    flags = parser.parse_args()
    cases = {}
    for name, net in NETS.items():
        net = {"batch": flags.batch, **net}
        cases[name] = [
            Contender("ours", step, net),
            *(Contender(who, step, net, environ) for who, environ in WITHOUT.items()),
            *(Contender(who, step, {**net, "patch": who}) for who in PATCHES),
        ]
    harness.run("choices", "What do the choices for CPU save?", cases, flags)


if __name__ == "__main__":
    main()
