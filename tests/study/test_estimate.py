"""What a plan is said to cost: what the same program cost before, else in proportion to its arithmetic."""

import jax
import numpy as np
import pytest
from small import RESNET, TEST, TRAIN, VGG, attacked, make, network, training, verdicts

from configs import trainings
from configs.methods import MECHANISMS, method
from transferjax import programs
from transferjax.stopping import Stopped
from transferjax.study import binding, estimate, shapes
from transferjax.study.content import size
from transferjax.study.plan import make_plan, program, work
from transferjax.study.resolve import Context
from transferjax.study.specs import Apply, Call, Derived, Goal, Measure
from transferjax.study.store import Store


@pytest.fixture
def cost(tmp_path, monkeypatch):
    """Seconds of one result that is missing; nothing of it may be compiled."""
    monkeypatch.setattr(estimate, "_speed", lambda: 1e9)
    monkeypatch.setattr(jax.stages.Lowered, "compile", None)
    store = Store(tmp_path)

    def cost(spec):
        return estimate.seconds(make_plan([spec], store), store)[spec.key]

    cost.store = store
    return cost


def test_what_a_program_cost_before(cost):
    arrays, one = {"x": np.zeros(1)}, work(network(), size)
    for seed, took in ((1, 20.0), (2, 4.0)):  # the first one compiled
        cost.store.put(network(seed=seed), arrays, {"seconds": took, "work": one})
    assert cost(network(seed=3)) == pytest.approx(16.0 + 4.0)
    assert cost(network(seed=3, epochs=5.0)) == pytest.approx(16.0 + 5 * 4.0)
    assert cost(network(RESNET)) != pytest.approx(20.0)  # another program


def test_what_moments_of_a_training_cost_before(one_device, tmp_path):
    """Each has its share of the work, also where the training was interrupted."""
    moments = [network(epochs=4.0, epoch=epoch) for epoch in (1.0, 2.5, None)]
    looks, store = iter([False] * 4 + [True]), Store(tmp_path)
    with pytest.raises(Stopped):
        make(Context(store, 64, 1, stopped=lambda: next(looks)), *moments)
    make(Context(store, 64, 1), *moments)
    whole = work(network(epochs=4.0), size)
    found = [store.entry(spec).provenance["work"] / whole for spec in moments]
    assert found == pytest.approx([1 / 4, 3 / 8, 3 / 8])


def test_a_moment_costs_the_training_up_to_it(cost):
    early, whole = (each(cost, network(epochs=8.0, epoch=epoch)) for epoch in (2.0, None))
    assert early == pytest.approx(whole / 4)


def test_what_cannot_be_read_is_left_out(cost):
    cost.store.put(network(), {"x": np.zeros(1)}, {})
    (cost.store.path(network()) / "spec.json").write_text("{")
    assert cost(network(seed=1)) > 0


def each(cost, spec):
    return cost(spec) - estimate.FIRST[spec.kind]


def test_arithmetic_counts_sizes_epochs_mechanisms_and_steps(cost):
    plain = each(cost, network())
    wide = Call(name=VGG.name, options={"width": 16, "blocks": (1, 1)})
    sam = (Call(name="sam", options={"rho": 0.1}),)
    assert each(cost, network(wide)) > 4 * plain
    assert each(cost, network(epochs=3.0)) == pytest.approx(3 * plain)
    assert each(cost, network(parts=sam)) == pytest.approx(2 * plain)
    assert each(cost, network(t=training(1.0, accumulate=2))) == pytest.approx(plain)
    two, ten = (
        each(cost, attacked(network(), Call(name="vmi_fgsm", options={"steps": steps, "neighbors": 4})))
        for steps in (2, 10)
    )
    assert ten == pytest.approx(5 * two)
    bim = each(cost, attacked(network(), Call(name="bim")))
    assert bim == pytest.approx(ten / (1 + 4))
    nets = (network(), network(seed=1))
    assert each(cost, attacked(nets, Call(name="bim"))) == pytest.approx(2 * bim)
    refused = attacked(network(), Call(name="apgd"), goal=Goal(aim="next"))
    assert each(cost, refused) == 0  # said where it is made


def test_derived_data_cost_their_steps(cost):
    def made(name, **options):
        call = Call(name=name, options=options)
        return each(cost, binding.bound(Derived(call=call, of=network(), data=TRAIN)))

    step = made("det", steps=1)
    assert step == pytest.approx(each(cost, network()) * size(TRAIN) / work(network(), size))
    assert made("rand") == pytest.approx(100 * step)
    assert made("robust") == pytest.approx(1000 * step)


def test_a_forward_pass_counts_the_products_of_a_net(cost):
    """VGG of width 4 on 8 x 8 digits: 3 x 3 kernels, two stages, then the classifier."""
    seen = each(cost, verdicts(network())) * 1e9 / 32
    convolutions = 2 * 9 * (64 * 1 * 4 + 16 * 4 * 8)
    assert 0.8 * convolutions < seen < 2 * convolutions  # fewer taps at the border; norms besides


def test_what_is_around_a_net_counts(cost):
    """Samples of a defence as often as they are drawn; the same around another seed is the same program."""
    net, other = network(), network(seed=1)
    around = lambda net, n: binding.bound(Apply(call=Call(name="smoothed", options={"samples": n}), of=net))  # noqa: E731
    alone, four = (each(cost, verdicts(spec)) for spec in (net, around(net, 4)))
    assert four == pytest.approx(4 * alone, rel=0.05)
    assert program(verdicts(around(net, 4))) == program(verdicts(around(other, 4)))
    assert program(verdicts(around(net, 4))) != program(verdicts(around(net, 5)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(40, "40 s"), (700, "12 min"), (12_600, "3.5 h"), (1.5e6, "17 days"), (7.1e8, "23 years")],
)
def test_in_words(seconds, text):
    assert estimate.readable(seconds) == text


def test_moments_of_one_training_cost_one_training(cost):
    whole = cost(network(epochs=4.0))
    moments = [network(epochs=4.0, epoch=epoch) for epoch in (1.0, 2.0)] + [network(epochs=4.0)]
    plan = make_plan(moments, cost.store)
    assert sum(estimate.seconds(plan, cost.store).values()) == pytest.approx(whole)
    assert estimate.gpu_hours(plan) == pytest.approx(
        estimate.gpu_hours(make_plan([network(epochs=4.0)], cost.store))
    )


def test_pairs_take_each_networks_gradients_once(cost):
    nets = [network(seed=seed) for seed in range(4)]
    pairs = [similarity(a, b) for i, a in enumerate(nets) for b in nets[i + 1 :]]
    for net in nets:
        cost.store.put(net, {"x": np.zeros(1)}, {})
    all_pairs = estimate.seconds(make_plan(pairs, cost.store), cost.store)
    one = estimate.seconds(make_plan(pairs[:1], cost.store), cost.store)
    each = sum(one.values()) - estimate.FIRST["Measure"]
    # two networks in one pair, four in six
    assert sum(all_pairs.values()) - estimate.FIRST["Measure"] == pytest.approx(2 * each)


def similarity(a, b):
    return binding.bound(Measure(call=Call(name="similarity"), of=(a, b), data=TEST))


STAGED = {"MU": "MU_5", "CM": "CM_5", "CO": "CO_5", "LS": "LS_5"}  # those that want a τ
DEEP = Call(name=VGG.name, options={"width": 8, "blocks": (1, 1, 1)})


def counted(mechanism):
    """Operations of a training step on an image."""
    spec = binding.bound(network(DEEP, parts=tuple(Call(**part) for part in method(mechanism))))
    return programs.operations(shapes.traced(spec).jaxpr)


@pytest.mark.parametrize(
    "mechanism",
    [name for name in MECHANISMS if name not in (*STAGED, "LookSAM")] + [*STAGED.values(), "SAM&IR"],
)
def test_training_costs_what_its_program_does(mechanism):
    assert estimate.training_cost(Call(**part) for part in method(mechanism)) == pytest.approx(
        counted(mechanism) / counted("ST"), rel=0.1
    )


def test_the_dearest_step_of_look_sam_is_one_of_five():
    assert counted("LookSAM") / counted("ST") == pytest.approx(2, rel=0.1)
    assert estimate.training_cost([Call(name="look_sam", options={"rho": 0.1, "every": 4})]) == 1.25


def test_equal_costs_of_trainings_are_those_of_the_estimate():
    """`configs/trainings` cuts each training's epochs by the gradients of a step that are estimated here."""
    known = {
        name: gradients() if callable(gradients) else gradients
        for name, gradients in estimate.GRADIENTS.items()
    }
    assert pytest.approx({name: known[name] for name in trainings.PRICES}) == trainings.PRICES
    assert set(known) - set(trainings.PRICES) == {"adversarial"}  # whose steps its parts say
