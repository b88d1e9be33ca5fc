"""Networks of a study: every part of a mechanism, averages at any epoch, architectures, data of their own."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import RESNET, VGG, attacked, make, network, training, verdicts

from transferjax import data, models
from transferjax.study import binding, registry, walk
from transferjax.study.networks import Trainer, train_step
from transferjax.study.resolve import Context, flat, nested
from transferjax.study.specs import Apply, Call, Data
from transferjax.study.store import Store
from transferjax.typing import Batch

PARTS = {
    "mixup": {},
    "cutmix": {},
    "cutout": {"size": 3},
    "label_smoothing": {"prob": 0.1},
    "adversarial": {"eps": 0.5, "steps": 1},
    "distilled": {},
    "input_gradient": {"weight": 1.0},
    "jacobian": {"weight": 1.0},
    "score_matching": {"weight": 1.0},
    "sam": {"rho": 0.1},
    "asam": {"rho": 0.5},
    "gsam": {"rho": 0.1, "alpha": 0.1},
    "agsam": {"rho": 0.5, "alpha": 0.1},
    "look_sam": {"rho": 0.1},
    "msam": {"rho": 0.3},
    "esam": {"rho": 0.3},
    "gnp": {"weight": 1.0},
    "er": {"weight": 0.1},
    "swa": {"start": 0.0},
    "ema": {"decay": 0.5},
}
HEAD = f"params/{models.build('cifar_vgg11').head}/kernel"
ONE = Call(name="cifar_vgg11", options={"width": 2, "blocks": (1,)})


def taught(parts):
    """The teacher that distillation wants."""
    return {"teacher": network(VGG, seed=1)} if any(part.name == "distilled" for part in parts) else {}


def test_every_part_has_a_case():
    assert set(PARTS) == set(registry.PARTS.rows())


@pytest.mark.parametrize("name", PARTS)
def test_every_part_trains_a_step_that_is_its_own(name, context):
    part = Call(name=name, options=PARTS[name])
    plain, spec = (network(ONE, parts=parts, epochs=2.0, **taught(parts)) for parts in ((), (part,)))
    one, other = make(context, plain.replace(epoch=0.5), spec.replace(epoch=0.5))  # the first of four steps
    assert np.isfinite(other["history/loss"]).all() if "history/loss" in other else True
    moved = [n for n in one if n.startswith("params") and not np.allclose(one[n], other[n], atol=1e-7)]
    if name in ("look_sam", "msam", "swa"):  # SAM's step first; a plain one; averages after the first epoch
        assert spec.key != plain.key
    else:
        assert moved


def test_averages_at_an_epoch_in_the_middle(context):
    """The mean of the ends of epochs so far, with statistics of its own; before the first, the weights."""
    swa = Call(name="swa", options={"start": 0.0})
    plain, averaged = (network(ONE, parts=parts, epochs=3.0) for parts in ((), (swa,)))
    ends = make(context, *(plain.replace(epoch=e) for e in (0.5, 1.0, 2.0)), plain)
    found = make(context, *(averaged.replace(epoch=e) for e in (0.5, 1.0, 2.0)), averaged)
    np.testing.assert_array_equal(found[0][HEAD], ends[0][HEAD])
    for count in (1, 2, 3):
        for name in (n for n in ends[0] if n.startswith("params")):
            mean = np.mean([end[name] for end in ends[1 : count + 1]], axis=0)
            np.testing.assert_allclose(found[count][name], mean, atol=1e-5)
    # Recomputed on one epoch: the mean of its batches' means.
    source = data.load("digits", "train").subset(64)
    trainer = Trainer(averaged.replace(seed=0), source)
    stats = []
    for batch, _ in zip(trainer.batches(0, 0), range(2), strict=False):
        variables = nested(found[3]) | {
            "batch_stats": jax.tree.map(jnp.zeros_like, nested(found[3])["batch_stats"])
        }
        stats.append(trainer._stats_of(variables, batch.images)["features.1"]["mean"])
    np.testing.assert_allclose(
        found[3]["batch_stats/features.1/mean"], 10 * np.mean(stats, axis=0), rtol=1e-3, atol=1e-5
    )


def test_an_epoch_asked_for_later_has_the_bits_of_one_asked_for_at_once(context):
    """Fractions too; and with the average, which the training after it goes on with."""
    ema = Call(name="ema", options={"decay": 0.5})
    spec = network(ONE, parts=(ema,), epochs=3.0, seed=7)
    together = make(context, *(spec.replace(epoch=e) for e in (0.5, 1.0, 1.5)), spec)
    again = network(ONE, parts=(ema,), epochs=3.0, seed=7)
    context.store.discard("Network", again.replace(epoch=1.5).key)
    context.forget()
    late = make(context, again.replace(epoch=1.5))
    for name, array in together[2].items():
        np.testing.assert_array_equal(late[name], array)
    for one, other in pairwise(together):
        assert not np.array_equal(one[HEAD], other[HEAD])


@pytest.mark.parametrize("share", [0.6, 0.8])
def test_an_epoch_before_the_newest_checkpoint(share, tmp_path):
    """Of a training that was stopped later on: from the start, past the checkpoints that are there."""

    class Killed(BaseException):
        pass

    def kill(text, done, total, /, **figures):
        if done >= share * total:
            raise Killed

    context = Context(Store(tmp_path), checkpoint_epochs=1, progress=kill)
    spec = network(ONE, epochs=4.0)
    with pytest.raises(Killed):
        make(context, spec)
    context.progress = lambda *args, **figures: None
    early, middle, end = make(context, spec.replace(epoch=0.5), spec.replace(epoch=2.5), spec)
    steps = {e.spec.epoch: e.provenance["steps"] for e in context.store.entries("Network")}
    assert steps == {0.5: 1, 2.5: 5, None: 8}
    other = Context(Store(tmp_path / "other"))
    for found, expected in zip(
        (early, middle, end),
        make(other, spec.replace(epoch=0.5), spec.replace(epoch=2.5), spec),
        strict=True,
    ):
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


def test_a_students_first_step_is_towards_what_its_teacher_says(context):
    """By hand: from the teacher's stored weights, and in the step's own words."""
    teacher, mechanism = (
        network(VGG, seed=1),
        (Call(name="distilled"), Call(name="sam", options={"rho": 0.1})),
    )
    student = network(ONE, parts=mechanism, teacher=teacher, epoch=0.5)
    found = make(context, student)
    trainer = Trainer(student.replace(seed=0), context.source(student.data), context.predict(teacher))
    examples = next(trainer.batches(0, 0))
    probabilities = jax.nn.softmax(context.predict(teacher)(data.to_float(examples.images)))
    state = trainer.fresh(trainer.initial(0))
    plain = train_step(network(ONE, parts=mechanism[1:]), 10, 2)
    batch = Batch(data.to_float(examples.images), probabilities)
    key = jax.random.fold_in(jax.random.key(0), 1)
    # Keys differ by the transform's place, and nothing here draws.
    after = plain.update(state, key, batch)
    for name, array in flat(after.variables).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)


class Noted(data.Dataset):
    """Notes what is read."""

    def read(self, plan, steps, seed):
        for step in steps:
            self.__dict__.setdefault("noted", []).append(plan(step))
            yield from super().read(plan, range(step, step + 1), seed)


def test_each_process_reads_its_own_part_of_a_batch():
    """Only an average's statistics are of whole ones."""
    digits = data.load("digits", "train").subset(64)
    source = Noted(digits.images, digits.labels, digits.class_names)
    spec = network(ONE)
    size = spec.training.batch_size
    parts = []
    for process in range(2):
        trainer = Trainer(spec, source)
        trainer.place = trainer.place._replace(shard=(process, 2))
        source.__dict__["noted"] = []
        parts.append(np.ravel(next(trainer.batches(3, 0)).indices))
        assert {len(rows) for rows in source.noted} == {size // 2}
        whole = np.ravel(next(trainer.batches(3, 0, whole=True)).indices)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(whole, data.batch_indices(3, 0, 64, size))


def test_a_teacher_stands_where_it_is_asked_and_nowhere_else():
    with pytest.raises(ValueError, match="'distilled' needs `teacher`"):
        network(ONE, parts=(Call(name="distilled"),))
    with pytest.raises(ValueError, match="only the part 'distilled' reads `teacher`"):
        network(ONE, teacher=network(VGG))
    of = [network(ONE, parts=(Call(name="distilled"),), teacher=network(VGG, seed=seed)) for seed in (1, 2)]
    assert of[0].key != of[1].key
    assert set(walk.needs(of[0])) == {network(VGG, seed=1)}


ARCHITECTURES = {
    "resnet": RESNET,
    "vgg": VGG,
    "densenet": Call(name="cifar_densenet121", options={"blocks": (1, 1), "growth": 4}),
    "wide": Call(name="cifar_wideresnet28_10", options={"blocks": 1, "width": 4}),
    "vit": Call(
        name="cifar_vit_small",
        options={"image_size": 8, "patch": 4, "depth": 1, "width": 8, "heads": 2, "hidden": 16},
    ),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures_are_surrogates_and_targets(name, context):
    net = network(ARCHITECTURES[name])
    images = attacked(net)
    hit, _, made = make(context, verdicts(net, images), verdicts(network(), images), images)
    assert hit["classes"].shape == (32,)
    far = np.abs(made["images"].astype(int) - data.load("digits", "test").subset(32).images)
    assert 0 < far.max() <= 32


def test_each_network_with_its_own_data_size_normalization_training_and_mechanism(context):
    """A surrogate that sees 12 x 12 pixels of half of the data, a target that sees 8 x 8 of the other."""
    big = Data(name="digits", split="train", options={"size": 12}, count=64, order_seed=3)
    adam = training(
        1.5, ("step_decay", {"peak": 1e-3, "at": (1.0,)}), optimizer=Call(name="adam"), accumulate=2
    )
    wide = network(
        RESNET, data=big, t=adam, mean=(0.1,), std=(1.0,), parts=(Call(name="sam", options={"rho": 0.1}),)
    )
    surrogate = binding.bound(Apply(call=Call(name="resized", options={"size": 12}), of=wide))
    images = attacked(surrogate)
    hit, own, made = make(context, verdicts(network(), images), verdicts(surrogate, images), images)
    assert hit["classes"].shape == own["classes"].shape == (32,)
    assert made["images"].shape == (32, 8, 8, 1)  # images live at the size of their data
    both = attacked((surrogate, network()))
    assert make(context, both)["images"].shape == (32, 8, 8, 1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_computation_in_another_precision(dtype, context):
    """Weights are float32 anyway."""
    net = network(ONE, t=training(0.5, dtype=dtype))
    assert make(context, net)[HEAD].dtype == np.float32
