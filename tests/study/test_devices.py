"""Eight devices make what one makes: data, attacks on one and on several, what draws, measures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import BIM, TEST, VGG, attacked, verdicts

from transferjax import models
from transferjax.study import binding
from transferjax.study.make import make
from transferjax.study.resolve import Context
from transferjax.study.specs import Apply, Call, Derived, Measure, Pretrained
from transferjax.study.store import Store


@pytest.fixture(scope="module")
def demand(tmp_path_factory):
    directory = tmp_path_factory.mktemp("weights")
    net, found = models.build("cifar_vgg11", **dict(VGG.options)), []
    for seed in (0, 1):
        variables = jax.jit(net.init)(jax.random.key(seed), jnp.zeros((1, 8, 8, 1)))
        file = models.save(variables, directory / f"{seed}.safetensors")
        found.append(binding.bound(Pretrained(model=VGG, file=str(file))))
    ghosts = binding.bound(Apply(call=Call(name="ghost_dropout", options={"rate": 0.5}), of=found[0]))
    return {
        "derived": binding.bound(
            Derived(call=Call(name="rand", options={"steps": 2}), of=found[0], data=TEST)
        ),
        "attacked": attacked(found[0], Call(name="pgd", options={"steps": 2})),
        "snapshots": attacked(tuple(found), Call(name="lgv", options={"steps": 2})),
        "random": attacked(ghosts, BIM),
        "verdicts": verdicts(ghosts),
        "smoothness": binding.bound(Measure(call=Call(name="smoothness"), of=found[0], data=TEST)),
    }


def made(spec, directory, monkeypatch, devices):
    if devices == 1:
        monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    assert jax.local_device_count() == devices
    ((_, result),) = make(Context(Store(directory), batch_size=20), [spec])
    return result["arrays"]


@pytest.mark.parametrize("name", ["derived", "attacked", "snapshots", "random", "verdicts", "smoothness"])
def test_eight_devices_make_what_one_makes(name, demand, tmp_path, monkeypatch):
    """32 images in batches of 24 and of 20, none of which divides them."""
    many, one = (made(demand[name], tmp_path, monkeypatch, devices) for devices in (8, 1))
    assert many.keys() == one.keys()
    for field, array in one.items():
        assert many[field].shape == array.shape
        near = np.isclose(many[field].astype(float), array, rtol=1e-3, atol=1e-5)
        assert near.mean() > 0.98, field  # rounding may turn a sign
