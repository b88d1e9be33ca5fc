"""A trained `cifar_resnet18`, or a narrower one, for benchmarks: random weights are no measure of much.

Trains on CIFAR-10 once (the full net about 15 minutes on two cores) and keeps the weights under `runs/`.

    python benchmarks/trained.py [--steps 500]
"""

import argparse
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from tqdm import tqdm

from transferjax import data, models
from transferjax.losses import cross_entropy
from transferjax.training import evaluate, mean_of

MODEL, MEAN, STD = "cifar_resnet18", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WEIGHTS = Path(__file__).parents[1] / "runs" / "benchmarks"
BATCH = 32


def predictor(variables, **options):
    return models.predictor(models.build(MODEL, **options), variables, MEAN, STD)


def train(steps: int, seed: int = 0, **options):
    """SGD with one-cycle learning rate, flips; nothing that the benchmarks depend on."""
    module = models.build(MODEL, **options)
    optimizer = optax.sgd(optax.cosine_onecycle_schedule(steps, 0.1), 0.9, nesterov=True)

    @jax.jit
    def step(variables, opt_state, key, images, labels):
        flip = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
        images = jnp.where(flip, images[:, :, ::-1], images)

        def loss(params):
            logits, stats = models.train_apply(module, {**variables, "params": params}, images, MEAN, STD)
            return cross_entropy(logits, labels).mean(), stats

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, "batch_stats": stats}, opt_state, value

    variables = jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, 32, 32, 3)))
    opt_state = optimizer.init(variables["params"])
    batches = data.train_batches(data.load("cifar10", "train"), BATCH, seed=seed)
    for i in (bar := tqdm(range(steps), unit_scale=BATCH, unit=" images", disable=None)):
        batch = next(batches)
        key = jax.random.fold_in(jax.random.key(seed + 1), i)
        variables, opt_state, value = step(
            variables, opt_state, key, data.to_float(batch.images), jnp.asarray(batch.labels)
        )
        if i % 20 == 0:
            bar.set_postfix(loss=f"{value:.3f}")
    return variables


def accuracy(variables, count: int = 1000, **options) -> float:
    """On the first test images."""
    sums = jax.jit(evaluate)
    predict = predictor(variables, **options)
    batches = data.eval_batches(data.load("cifar10", "test").subset(count), 100)
    return mean_of(sums(predict, data.to_float(b.images), b.labels, b.weights > 0) for b in batches)[
        "accuracy"
    ]


def trained_variables(steps: int = 500, seed: int = 0, **options):
    """The weights, trained now if they are not there yet, and their test accuracy."""
    parts = [
        *(f"{name}{value}".replace(" ", "") for name, value in options.items()),
        *([seed] if seed else []),
    ]
    path = WEIGHTS / f"{'-'.join(map(str, [MODEL, *parts, steps]))}.pickle"
    if not path.exists():
        variables = jax.device_get(train(steps, seed, **options))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps((variables, accuracy(variables, **options))))
    return pickle.loads(path.read_bytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    print(f"test accuracy {trained_variables(parser.parse_args().steps)[1]:.3f}")
