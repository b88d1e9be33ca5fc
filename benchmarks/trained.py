"""A trained `cifar_resnet18` for benchmarks: random weights have another curvature than trained ones.

Trains on CIFAR-10 once (about 15 minutes on two cores) and keeps the weights under `runs/`.

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


def predictor(variables):
    return models.predictor(models.build(MODEL), variables, MEAN, STD)


def train(steps: int):
    """SGD with one-cycle learning rate, flips; nothing that the benchmarks depend on."""
    module = models.build(MODEL)
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

    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    opt_state = optimizer.init(variables["params"])
    batches = data.train_batches(data.load("cifar10", "train"), BATCH, seed=0)
    for i in (bar := tqdm(range(steps), unit_scale=BATCH, unit=" images")):
        batch = next(batches)
        key = jax.random.fold_in(jax.random.key(1), i)
        variables, opt_state, value = step(
            variables, opt_state, key, data.to_float(batch.images), jnp.asarray(batch.labels)
        )
        if i % 20 == 0:
            bar.set_postfix(loss=f"{value:.3f}")
    return variables


def accuracy(variables, count: int = 1000) -> float:
    """On the first test images."""
    sums = jax.jit(evaluate)
    predict = predictor(variables)
    batches = data.eval_batches(data.load("cifar10", "test").subset(count), 100)
    return mean_of(sums(predict, data.to_float(b.images), b.labels, b.weights > 0) for b in batches)[
        "accuracy"
    ]


def trained_variables(steps: int = 500):
    """The weights, trained now if they are not there yet, and their test accuracy."""
    path = WEIGHTS / f"{MODEL}-{steps}.pickle"
    if not path.exists():
        variables = jax.device_get(train(steps))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps((variables, accuracy(variables))))
    return pickle.loads(path.read_bytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=500)
    print(f"test accuracy {trained_variables(parser.parse_args().steps)[1]:.3f}")
