"""Purifiers: what each row trains, and the one host loop around its step."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from transferjax import attacks, data, models
from transferjax.defences import NRP, ComDefend, Denoiser, make_purifier_step
from transferjax.defences.purifiers import (
    PurifierLoss,
    PurifierState,
    guided_loss,
    reconstruction_loss,
    self_supervised_loss,
)
from transferjax.losses import one_hot
from transferjax.models import Net
from transferjax.random import fold_in, per_example
from transferjax.study import registry
from transferjax.study.networks import history_arrays, optimizer
from transferjax.study.resolve import Context, flat
from transferjax.study.specs import Purifier
from transferjax.training.fit import fit
from transferjax.typing import Array, Batch, Predict


class Recipe(NamedTuple):
    """A purifier's net, its loss given the classifier, what else its step takes, and whether it needs one."""

    net: Net
    loss: Callable[[Any], PurifierLoss]
    terms: dict[str, Any]
    guided: bool = True


def comdefend(features: int = 64, code_penalty: float = 1e-4) -> Recipe:
    """ComDefend: learns to give images back through a binary code.

    Args:
        features: width, as a share of the paper's at 64.
        code_penalty: weight of the code's mean square.
    """
    widths = tuple(max(features * width // 64, 1) for width in (16, 32, 64, 128, 256, 128, 64, 32))
    terms = {"code_penalty": code_penalty}
    return Recipe(ComDefend(widths=widths), lambda predict: reconstruction_loss(), terms, guided=False)


def hgd(features: int = 64, eps: float = 8 / 255) -> Recipe:
    """The high-level guided denoiser: attacked images shall look clean to the classifier.

    Args:
        features: of the first stage; the others are 2 and 4 times as wide.
        eps: L∞ budget of the FGSM that it trains against.
    """
    down = tuple(features * width for width in (1, 2, 4, 4, 4))
    net = Denoiser(down=down, up=down[:-1])
    return Recipe(net, lambda predict: guided_loss(predict, attacks.fgsm(eps)), {})


def nrp(features: int = 64, blocks: int = 23, layer: str = "layer3.0", eps: float = 8 / 255) -> Recipe:
    """NRP: learns without labels to undo the farthest features in a ball, before a critic, a small VGG.

    Args:
        features: width of the purifier's and the critic's first layers.
        blocks: residual-in-residual blocks.
        layer: the end of the path of the classifier's module whose features count.
        eps: L∞ radius of the ball.
    """
    critic = models.build("cifar_vgg16", num_classes=1, blocks=(1, 1, 1), width=features)
    net = NRP(features=features, growth=max(features // 2, 1), blocks=blocks)
    return Recipe(net, lambda predict: self_supervised_loss(predict, layer, eps), {"critic": critic})


def net_of(spec: Purifier) -> Net:
    """The Flax module of a purifier."""
    return recipe_of(spec).net


def recipe_of(spec: Purifier) -> Recipe:
    """What a purifier's row says, with the spec's dtype.

    Raises:
        ValueError: a row that is guided by a classifier, and no `of`; or one that needs none, and has it.
    """
    recipe: Recipe = registry.make(registry.PURIFIERS, spec.call)
    if recipe.guided != (spec.of is not None):
        needs = (
            "is guided by a classifier: give `of`" if recipe.guided else "needs no classifier: leave `of` out"
        )
        raise ValueError(f"purifier {spec.call.name!r} {needs}")
    return recipe._replace(net=recipe.net.clone(dtype=getattr(jnp, spec.training.dtype)))


def make_purifiers(
    context: Context, members: Sequence[Purifier]
) -> Iterator[tuple[Purifier, dict[str, Any]]]:
    """Each purifier, trained to its end from its newest checkpoint."""
    for spec in members:
        yield spec, _trained(context, spec)


def _trained(context: Context, spec: Purifier) -> dict[str, Any]:
    t, source, recipe = spec.training, context.source(spec.data), recipe_of(spec)
    per_epoch = data.steps_per_epoch(len(source), t.batch_size)
    predict = None if spec.of is None else context.predict(spec.of)
    key = jax.random.fold_in(jax.random.key(spec.seed), 1)
    augment = registry.make(registry.AUGMENTS, t.augment) if t.augment else None

    def step_with(predict: Predict | None) -> Any:
        return make_purifier_step(recipe.net, recipe.loss(predict), optimizer(t, per_epoch), **recipe.terms)

    def images_of(examples: data.Examples, step: Array) -> Array:
        images = data.to_float(examples.images)
        if augment is None:
            return images
        keys = fold_in(per_example(jax.random.fold_in(key, step), len(images)), 1)
        batch = Batch(images, one_hot(examples.labels, source.num_classes))
        return augment(keys, batch, predict).images

    @jax.jit
    def update(state: PurifierState, examples: data.Examples, predict: Predict | None) -> Any:
        images = images_of(examples, state.step)
        state, loss = step_with(predict).update(state, key, images, examples.labels)
        return state, {"loss": loss}

    first = jnp.zeros((1, *source.image_shape))
    (stop,) = fit(
        lambda state, examples: update(state, examples, predict),
        jax.jit(lambda key: step_with(predict).init(key, first))(jax.random.key(spec.seed)),
        lambda start: data.train_batches(source, t.batch_size, seed=spec.seed, start_step=start),
        stops=(max(1, round(t.epochs * per_epoch)),),
        steps_per_epoch=per_epoch,
        directory=context.store.scratch(spec.key),
        save_epochs=context.checkpoint_epochs,
        watch=context.watch(max(1, round(t.epochs * per_epoch)), t.batch_size, spec.call.name),
    )
    arrays = flat(stop.state.variables) | history_arrays(stop.history)
    return {"arrays": arrays, "steps": stop.trained}
