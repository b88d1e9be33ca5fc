"""Small specs on the digits, and what makes them; for tests."""

from transferjax.study import binding
from transferjax.study.run import Local, run
from transferjax.study.specs import Adversarial, Call, Data, Network, Training, Verdicts

TRAIN, TEST = Data(name="digits", split="train", count=64), Data(name="digits", split="test", count=32)
VGG = Call(name="cifar_vgg11", options={"width": 4, "blocks": (1, 1)})
RESNET = Call(name="cifar_resnet18", options={"width": 4, "blocks": (1, 1)})
BIM = Call(name="bim", options={"steps": 2})


def training(epochs=1.0, schedule=("constant", {"peak": 0.05}), **more):
    """Two steps an epoch."""
    name, options = schedule
    return Training(epochs=epochs, batch_size=32, schedule=Call(name=name, options=options), **more)


def network(model=VGG, *, data=TRAIN, epochs=1.0, t=None, **more):
    """A network of a few hundred weights."""
    t = t or training(epochs)
    return binding.bound(
        Network(model=model, data=data, training=t, **{"mean": (0.3,), "std": (0.3,)} | more)
    )


def attacked(surrogates, attack=BIM, *, eps=32 / 255, data=TEST, **more):
    """Adversarial images."""
    return binding.bound(Adversarial(surrogates=surrogates, attack=attack, eps=eps, data=data, **more))


def verdicts(target, images=TEST):
    """What a target says of them."""
    return binding.bound(Verdicts(target=target, images=images))


def make(context, *demand):
    """The arrays of a demand, all of which must succeed; those of one alone as they are."""
    outcome = run(demand, context.store, Local(context))
    assert not outcome.failed, [why for _, why in outcome.failed.values()]
    found = [context.arrays(spec) for spec in demand]
    return found[0] if len(found) == 1 else found


def failure(context, *demand):
    """The one message of a demand that fails."""
    outcome = run(demand, context.store, Local(context))
    (message,) = {why for _, why in outcome.failed.values()}
    return message
