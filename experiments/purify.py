"""Trains a purifier (ComDefend, HGD or NRP) for a classifier, and says what it does to attacked images.

    python -m experiments.purify --kind=hgd --weights=net.safetensors --out=hgd.safetensors

HGD and NRP are guided by the classifier; ComDefend only needs images. With the settings of the papers this
takes a GPU; `--features` and `--steps` make it small.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import app, flags
from tqdm import tqdm

from experiments.cli import enable_compilation_cache
from transferjax import attacks, data, models
from transferjax.defences import NRP, ComDefend, Denoiser, make_purifier_step, purified
from transferjax.defences.purifiers import (
    PurifierLoss,
    guided_loss,
    reconstruction_loss,
    self_supervised_loss,
)
from transferjax.models import Net
from transferjax.typing import Predict

_KIND = flags.DEFINE_enum("kind", "comdefend", ["comdefend", "hgd", "nrp"], "which purifier")
_MODEL = flags.DEFINE_string("model", "cifar_resnet18", "the classifier")
_WEIGHTS = flags.DEFINE_string("weights", None, "its weights, in any format of transferjax.models.load")
_DATASET = flags.DEFINE_string("dataset", "cifar10", "what to train on")
_OUT = flags.DEFINE_string("out", None, "where to write the purifier's weights")
_EPS = flags.DEFINE_float("eps_255", 8, "budget of the training attacks, in units of 1/255")
_LAYER = flags.DEFINE_string("layer", "layer3.0", "nrp: the module whose features are compared")
_FEATURES = flags.DEFINE_integer("features", 64, "width of the purifier's first layers")
_STEPS = flags.DEFINE_integer("steps", 10_000, "training steps")
_BATCH = flags.DEFINE_integer("batch_size", 32, "images per step")
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "of Adam, falling to zero by a cosine")


def make(
    kind: str, predict: Predict, eps: float, layer: str, features: int
) -> tuple[Net, PurifierLoss, float]:
    """The purifier, its loss and the weight of its code's penalty."""
    if kind == "comdefend":
        widths = tuple(features * w // 64 for w in (16, 32, 64, 128, 256, 128, 64, 32))
        return ComDefend(widths=widths), reconstruction_loss(), 1e-4
    if kind == "hgd":
        down = tuple(features * w for w in (1, 2, 4, 4, 4))
        return Denoiser(down=down, up=down[:-1]), guided_loss(predict, attacks.fgsm(eps)), 0.0
    return NRP(features=features), self_supervised_loss(predict, layer, eps), 0.0


def accuracies(predict: Predict, purifier: Predict, images: Any, labels: Any, eps: float) -> dict[str, float]:
    """On clean images and on images attacked without knowing of the purifier, with and without it."""
    attacked = jax.jit(attacks.bim(eps, 10))(jax.random.key(0), predict, images, labels)
    right = jax.jit(lambda predict, x: (predict(x).argmax(-1) == labels).mean())
    nets = {"bare": predict, "purified": purified(predict, purifier)}
    pictures = {"clean": images, "attacked": attacked}
    return {f"{x}, {net}": float(right(nets[net], pictures[x])) for x in pictures for net in nets}


def main(argv: list[str]) -> None:
    """The script."""
    enable_compilation_cache()
    train = data.load(_DATASET.value, "train")
    classifier = models.build(_MODEL.value, num_classes=train.num_classes)
    if _WEIGHTS.value is None:
        raise app.UsageError("--weights is missing: the classifier must be a trained one")
    variables = models.load(classifier, _WEIGHTS.value)
    predict, eps = models.predictor(classifier, variables), _EPS.value / 255
    net, loss, penalty = make(_KIND.value, predict, eps, _LAYER.value, _FEATURES.value)
    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE.value, _STEPS.value))
    step = make_purifier_step(net, loss, optimizer, code_penalty=penalty)
    batches, update = data.train_batches(train, _BATCH.value, seed=0), jax.jit(step.update)
    state = jax.jit(step.init)(jax.random.key(0), data.to_float(next(batches).images))
    bar = tqdm(range(_STEPS.value), disable=None, unit_scale=_BATCH.value, unit=" images")
    for number in bar:
        batch = next(batches)
        state, value = update(
            state, jax.random.key(1), data.to_float(batch.images), jnp.asarray(batch.labels)
        )
        if number % 20 == 0:
            bar.set_postfix(loss=f"{float(value):.4f}")
    if _OUT.value:
        print("wrote", models.save(state.variables, _OUT.value))
    test = data.load(_DATASET.value, "test")
    few = test.subset(min(512, len(test)))
    purifier = models.predictor(net, state.variables)
    images = data.to_float(jnp.asarray(few.images))
    for name, accuracy in accuracies(predict, purifier, images, few.labels, eps).items():
        print(f"{name:20} {accuracy:.1%}")


if __name__ == "__main__":
    app.run(main)
