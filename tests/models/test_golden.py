"""Parity with the reference PyTorch implementations: see `tests/golden/README.md`."""

import json
import zlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transferjax import models
from transferjax.defences import Denoiser
from transferjax.losses import cross_entropy

GOLDEN = Path(__file__).parents[1] / "golden"
LABEL = jnp.array([3])


@pytest.fixture
def state_dict(golden_tensor):
    def of(name: str) -> dict[str, np.ndarray]:
        shapes = json.loads((GOLDEN / f"{name}.state_dict.json").read_text())
        return {key: golden_tensor(key, shape) for key, shape in shapes.items()}

    return of


def relative(ours, reference) -> float:
    return float(np.abs(np.asarray(ours) - reference).max() / np.abs(reference).max())


ALL = sorted(f.stem for f in GOLDEN.glob("*.npz") if f.stem.rpartition(".")[2] in models.ZOO)
QUICK = [
    "cifar_densenet121",
    "cifar_inceptionv3",
    "cifar_resnet18",
    "cifar_resnet50",
    "cifar_vgg16",
    "mobilenetv2_100",
    "pit_s_224",
    "regnetx_032",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "swin_tiny_patch4_window7_224",
    "torchvision.mobilenet_v3_small",
    "visformer_tiny",
    "vit_base_patch32_224",
]


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
)
@pytest.mark.filterwarnings("ignore:.*the prefix 'net.' was taken off")  # as in the files of HGD
def test_logits_and_input_gradients(name, state_dict):
    """In float64, like the reference: in float32 a ReLU at a kink makes a pixel's gradient differ by 1e-2.

    The first image of two: neither knows of the other, and in float64 what is by channels is slow.
    """
    reference, tensors = np.load(GOLDEN / f"{name}.npz"), state_dict(name)
    module = models.build(name.rpartition(".")[2])
    size = int(reference.get("size", module.image_size))
    images = np.random.default_rng(zlib.crc32(b"input")).random((1, size, size, 3)).astype(np.float32)
    predict = models.predictor(module, models.from_torch(module, tensors))

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 3})  # running costs more here
    def run(predict, images):
        logits, pullback = jax.vjp(predict, images)
        return logits, pullback(jax.grad(lambda z: cross_entropy(z, LABEL).sum())(logits))[0]

    with jax.enable_x64(True):
        predict, images = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (predict, images))
        logits, gradient = run(predict, images)
    every = 1 if name.startswith("cifar") else 16
    assert relative(logits, reference["logits"][:1]) < 1e-6
    assert relative(gradient[:, ::every, ::every], reference["input_gradient"][:1]) < 1e-6


def test_the_denoiser_alone(state_dict):
    """A narrow U-net, on images whose sides are odd at every stage."""
    reference = np.load(GOLDEN / "denoiser_tiny.npz")
    net = Denoiser(widths=(4, 6, 8), depth=3)
    images = np.random.default_rng(zlib.crc32(b"input")).random((2, 21, 21, 3)).astype(np.float32)
    purify = models.predictor(net, models.from_torch(net, state_dict("denoiser_tiny")))
    with jax.enable_x64(True):
        purify, images = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (purify, images))
        assert relative(jax.jit(purify)(images), reference["images"]) < 1e-6


def test_there_is_a_reference_for_every_kind_of_net():
    kinds = {type(models.build(name)) for name in models.ZOO}
    covered = {type(models.build(name.rpartition(".")[2])) for name in ALL}
    assert {kind.__name__ for kind in kinds - covered} == {"CifarWideResNet"}
