"""Trains a purifier (ComDefend, HGD or NRP) for a classifier, and says what it does to attacked images.

    python -m experiments.purify --kind=hgd --weights=net.safetensors --out=hgd.safetensors

HGD and NRP are guided by the classifier; ComDefend only needs images. NRP's critic is a small VGG. With the
settings of the papers this takes a GPU; `--features`, `--blocks` and `--steps` make it small.
"""

import ast
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
from transferjax.typing import Predict, PyTree

_KIND = flags.DEFINE_enum("kind", "comdefend", ["comdefend", "hgd", "nrp"], "which purifier")
_MODEL = flags.DEFINE_string("model", "cifar_resnet18", "the classifier")
_OPTIONS = flags.DEFINE_string("options", "{}", "its options, such as \"{'width': 16}\"")
_WEIGHTS = flags.DEFINE_string("weights", None, "its weights, in any format of transferjax.models.load")
_MEAN = flags.DEFINE_list("mean", ["0"], "of its training images")
_STD = flags.DEFINE_list("std", ["1"], "of its training images")
_DATASET = flags.DEFINE_string("dataset", "cifar10", "what to train on")
_OUT = flags.DEFINE_string("out", None, "where to write the purifier's weights")
_EPS = flags.DEFINE_float("eps_255", 8, "budget of the training attacks, in units of 1/255")
_LAYER = flags.DEFINE_string("layer", "layer3.0", "nrp: the module whose features are compared")
_FEATURES = flags.DEFINE_integer("features", 64, "width of the purifier's first layers")
_BLOCKS = flags.DEFINE_integer("blocks", 23, "nrp: residual-in-residual blocks")
_STEPS = flags.DEFINE_integer("steps", 10_000, "training steps")
_BATCH = flags.DEFINE_integer("batch_size", 32, "images per step")
_RATE = flags.DEFINE_float("learning_rate", 1e-3, "of Adam, falling to zero by a cosine")


def make(
    kind: str, predict: Predict, eps: float, layer: str, features: int, blocks: int = 23
) -> tuple[Net, PurifierLoss, dict[str, Any]]:
    """The purifier, its loss and what else its train step takes."""
    if kind == "comdefend":
        widths = tuple(max(features * w // 64, 1) for w in (16, 32, 64, 128, 256, 128, 64, 32))
        return ComDefend(widths=widths), reconstruction_loss(), {"code_penalty": 1e-4}
    if kind == "hgd":
        down = tuple(features * w for w in (1, 2, 4, 4, 4))
        return Denoiser(down=down, up=down[:-1]), guided_loss(predict, attacks.fgsm(eps)), {}
    critic = models.build("cifar_vgg16", num_classes=1, blocks=(1, 1, 1), width=features)
    net = NRP(features=features, growth=max(features // 2, 1), blocks=blocks)
    return net, self_supervised_loss(predict, layer, eps), {"critic": critic}


def train(
    net: Net,
    loss: PurifierLoss,
    dataset: data.Source,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    **terms: Any,
) -> PyTree:
    """The purifier's variables after so many steps of Adam."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    step = make_purifier_step(net, loss, optimizer, **terms)
    batches, update = data.train_batches(dataset, batch_size, seed=0), jax.jit(step.update)
    state = jax.jit(step.init)(jax.random.key(0), jnp.zeros((1, *dataset.image_shape)))
    for number in (bar := tqdm(range(steps), disable=None, unit_scale=batch_size, unit=" images")):
        batch = next(batches)
        state, value = update(
            state, jax.random.key(1), data.to_float(batch.images), jnp.asarray(batch.labels)
        )
        if number % 20 == 0:
            bar.set_postfix(loss=f"{float(value):.4f}")
    return state.variables


def accuracies(predict: Predict, purifier: Predict, images: Any, labels: Any, eps: float) -> dict[str, float]:
    """On clean images, and on images attacked without knowing of the purifier or through it."""
    defended, attack = purified(predict, purifier), jax.jit(attacks.bim(eps, 10, step_size=eps / 4))
    right = jax.jit(lambda predict, x: (predict(x).argmax(-1) == labels).mean())
    attacked = attack(jax.random.key(0), predict, images, labels)
    through = attack(jax.random.key(0), defended, images, labels)
    return {
        "clean, bare": float(right(predict, images)),
        "clean, purified": float(right(defended, images)),
        "attacked, bare": float(right(predict, attacked)),
        "attacked, purified": float(right(defended, attacked)),
        "attacked through it": float(right(defended, through)),
    }


def main(argv: list[str]) -> None:
    """The script."""
    enable_compilation_cache()
    images = data.load(_DATASET.value, "train")
    options = ast.literal_eval(_OPTIONS.value)
    classifier = models.build(_MODEL.value, num_classes=images.num_classes, **options)
    if _WEIGHTS.value is None:
        raise app.UsageError("--weights is missing: the classifier must be a trained one")
    mean, std = ([float(value) for value in flag.value] for flag in (_MEAN, _STD))
    predict = models.predictor(classifier, models.load(classifier, _WEIGHTS.value), mean, std)
    eps = _EPS.value / 255
    net, loss, terms = make(_KIND.value, predict, eps, _LAYER.value, _FEATURES.value, _BLOCKS.value)
    terms |= {"batch_size": _BATCH.value, "learning_rate": _RATE.value}
    variables = train(net, loss, images, steps=_STEPS.value, **terms)
    if _OUT.value:
        print("wrote", models.save(variables, _OUT.value))
    test = data.load(_DATASET.value, "test")
    few = test.subset(min(512, len(test)))
    x = data.to_float(jnp.asarray(few.images))
    for name, accuracy in accuracies(predict, models.predictor(net, variables), x, few.labels, eps).items():
        print(f"{name:20} {accuracy:.1%}")


if __name__ == "__main__":
    app.run(main)
