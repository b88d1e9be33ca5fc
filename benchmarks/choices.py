"""What do the choices for CPU save? A training step as it is, and with one of them made otherwise at a time.

    python benchmarks/choices.py [--batch 64] [--rounds 7]

`memory given back`: `TRANSFERJAX_MALLOC=default`; `default fusions`: `TRANSFERJAX_FUSIONS=default` (both in
`transferjax.xla`); what is off unless asked for: `Winograd's order`, `TRANSFERJAX_WINOGRAD=on`, and `large
pages`, as README says; `XLA's pooling`: instead of `models.pooling`'s; `XLA's convolutions`: instead of
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
OTHERWISE = {
    "memory given back": {"TRANSFERJAX_MALLOC": "default"},
    "default fusions": {"TRANSFERJAX_FUSIONS": "default"},
    "Winograd's order": {"TRANSFERJAX_WINOGRAD": "on"},
    "large pages": {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592"
        ":glibc.malloc.trim_threshold=17179869184"
    },
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
            *(Contender(who, step, net, environ) for who, environ in OTHERWISE.items()),
            *(Contender(who, step, {**net, "patch": who}) for who in PATCHES),
        ]
    harness.run("choices", "What do the choices for CPU save?", cases, flags)


if __name__ == "__main__":
    main()
