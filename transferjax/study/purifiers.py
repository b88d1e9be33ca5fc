"""Purifiers: training of what their rows say, through the one host loop."""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from transferjax import data
from transferjax.defences import make_purifier_step
from transferjax.defences.purifier_training import PurifierState
from transferjax.losses import one_hot
from transferjax.random import fold_in, per_example
from transferjax.study import registry
from transferjax.study.nets import recipe_of
from transferjax.study.networks import history_arrays, optimizer
from transferjax.study.resolve import Context, flat
from transferjax.study.specs import Purifier
from transferjax.training.fit import fit
from transferjax.typing import Array, Batch, Predict


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
        step_with(predict).init(jax.random.key(spec.seed), first),
        lambda start: data.train_batches(source, t.batch_size, seed=spec.seed, start_step=start),
        stops=(max(1, round(t.epochs * per_epoch)),),
        steps_per_epoch=per_epoch,
        directory=context.store.scratch(spec.key),
        save_epochs=context.checkpoint_epochs,
        watch=context.watch(max(1, round(t.epochs * per_epoch)), t.batch_size, spec.call.name),
        stopped=context.stopped,
    )
    arrays = flat(stop.state.variables) | history_arrays(stop.history)
    return {"arrays": arrays, "steps": stop.trained, "share": 1.0, "before": stop.before}
