"""How does the cost of an attack grow with the work? PGD on a narrow ResNet-18, one thing at a time.

    python benchmarks/growth.py [--rounds 5]

Batches of images, their size, steps and width grow from a small attack; devices are simulated ones that
share the processor's cores, so that more of them cost what splitting costs and gain nothing. Memory is the
process's.
"""

import harness
import jax
import jax.numpy as jnp
from harness import Contender

from transferjax import attacks, models
from transferjax.devices import mapped
from transferjax.random import per_example

START = {"batches": 1, "batch": 16, "steps": 5, "width": 16}
GROWTH = {
    "batches": (1, 4, 16),
    "batch": (1, 4, 16, 64, 256),
    "steps": (1, 5, 20, 80),
    "width": (8, 16, 32, 64),
}
DEVICES = (1, 2, 4, 8)


def make(batches: int, batch: int, steps: int, width: int):
    """An attack on so many batches, one after the other."""
    from peers import drawn

    module = models.build("cifar_resnet18", width=width)
    predict = jax.device_put(models.predictor(module, drawn(module)))
    images = jax.random.uniform(jax.random.key(0), (batch, 32, 32, 3))
    attack = attacks.pgd(8 / 255, steps, step_size=2 / 255)
    run = mapped(lambda examples, predict: attack(examples[0], predict, *examples[1:]))
    examples = per_example(jax.random.key(1), batch), images, jnp.arange(batch) % 10
    return lambda: jax.block_until_ready([run(examples, predict) for _ in range(batches)])


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    flags = parser.parse_args()
    cases = {
        f"{name} (else {', '.join(f'{other} {START[other]}' for other in START if other != name)})": [
            Contender(f"{name} {value}", make, START | {name: value}) for value in values
        ]
        for name, values in GROWTH.items()
    }
    cases["simulated devices, batch 64"] = [
        Contender(
            f"{devices} devices",
            make,
            START | {"batch": 64},
            {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"},
        )
        for devices in DEVICES
    ]
    harness.run("growth", "How does the cost of an attack grow with the work?", cases, flags)


if __name__ == "__main__":
    main()
