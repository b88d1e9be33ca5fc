"""How soon is a net trained? Test accuracy and seconds of the recipes of `configs/common`, on real CIFAR-10.

    python benchmarks/fast.py [--mechanisms ST SAM\\&IR] [--epochs 2 4 8] [--width 16]

For each mechanism the paper's recipe (warm-up, cosine, random flips) and `fast_training` (a triangle,
Nesterov's momentum, alternating flips), each cut to so many epochs, the same seeds. Seconds are of the
training steps, compilation left out; the data come from memory.
"""

import time

import harness
import jax
import jax.numpy as jnp
import numpy as np

from configs import common
from configs.methods import method
from transferjax import data, models
from transferjax.study import content, specs
from transferjax.study.networks import Trainer
from transferjax.training import evaluate, mean_of

AXES = ("seconds", "test accuracy, %")  # of the picture
RECIPES = {
    "the paper's": lambda epochs: common.training(epochs, warmup_epochs=epochs / 20),
    "fast": common.fast_training,
}


def trained(recipe: str, mechanism: str, epochs: float, width: int, seed: int) -> tuple[float, float]:
    """(test accuracy, seconds of the training steps)."""
    fields = common.network(
        "cifar_resnet18",
        {"width": width},
        parts=method(mechanism),
        data=common.data("cifar10", "train"),
        training=RECIPES[recipe](epochs),
        **common.CIFAR10,
    )
    spec = specs.build(specs.Network, fields, mechanism)
    trainer, key = Trainer(spec, content.load(spec.data)), jax.random.key(seed)
    state, batches = trainer.fresh(trainer.initial(seed)), trainer.batches(seed, 0)
    compiled = trainer.update(jax.tree.map(jnp.copy, state), key, next(trainer.batches(seed, 0)))
    jax.block_until_ready(compiled)
    begin = time.perf_counter()
    for _ in range(trainer.step_of(None)):
        state = trainer.update(state, key, next(batches))
    jax.block_until_ready(state)
    seconds = time.perf_counter() - begin
    predict = models.predictor(trainer.net, trainer.variables(state), spec.mean, spec.std)
    sums = jax.jit(evaluate)
    test = data.eval_batches(data.load("cifar10", "test"), 500)
    found = mean_of(sums(predict, data.to_float(b.images), b.labels, b.weights > 0) for b in test)
    return found["accuracy"], seconds


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument("--mechanisms", nargs="+", default=["ST", "SAM&IR"])
    parser.add_argument("--epochs", type=float, nargs="+", default=[2, 4, 8])
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=1)
    flags = parser.parse_args()
    rows = harness.kept("fast", flags, "rows")
    for epochs in flags.epochs:
        for mechanism in flags.mechanisms:
            for recipe in RECIPES:
                name = f"{mechanism}, {epochs:g} epochs, {recipe}"
                if name in rows:
                    continue
                found = [trained(recipe, mechanism, epochs, flags.width, seed) for seed in range(flags.seeds)]
                accuracies, seconds = zip(*found, strict=True)
                rows[name] = {
                    AXES[1]: round(100 * float(np.mean(accuracies)), 2),
                    "range over seeds": round(100 * float(np.ptp(accuracies)), 2),
                    AXES[0]: round(float(np.mean(seconds)), 1),
                }
                print(name, rows[name], flush=True)
                harness.save("fast", "How soon is a net trained?", flags, rows=rows, axes=AXES)


if __name__ == "__main__":
    main()
