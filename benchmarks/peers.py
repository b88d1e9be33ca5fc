"""The same net in Flax and in PyTorch, and small trained ones, for benchmarks against PyTorch libraries."""

import pickle
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from transferjax import data, models
from transferjax.losses import cross_entropy

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
RESULTS = Path(__file__).parent / "results"
WEIGHTS = Path(__file__).parents[1] / "runs" / "benchmarks"


class Block(nn.Module):
    """The basic residual block, under the names of the weights."""

    def __init__(self, inputs, features, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, features, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != features:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, features, 1, stride, bias=False), nn.BatchNorm2d(features)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class TorchResNet(nn.Module):
    """A CIFAR ResNet that normalizes its images itself."""

    def __init__(self, blocks=(2, 2, 2, 2), width=64):
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.conv1, self.bn1 = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        inputs, self.stages = width, []
        for stage, count in enumerate(blocks):
            features, layer = width * 2**stage, []
            for i in range(count):
                layer.append(Block(inputs, features, 2 if stage and not i else 1))
                inputs = features
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layer))
            self.stages.append(f"layer{stage + 1}")
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.linear(x.mean((2, 3)))


def both(variables, **options):
    """(our predict, the PyTorch net) with the same weights, checked against each other."""
    module = models.build("cifar_resnet18", **options)
    predict = models.predictor(module, variables, MEAN, STD)
    net = TorchResNet(**options).eval()
    state = {k: torch.tensor(np.asarray(v)) for k, v in models.to_torch(variables).items()}
    net.load_state_dict(state, strict=False)
    x = np.random.default_rng(0).random((4, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        difference = np.abs(net(to_torch(x)).numpy() - np.asarray(jax.jit(predict)(x))).max()
    if difference > 1e-3:
        raise RuntimeError(f"the two nets differ by {difference} in their logits")
    return predict, net


def to_torch(images):
    return torch.tensor(np.asarray(images).transpose(0, 3, 1, 2))


def to_numpy(images):
    return images.detach().numpy().transpose(0, 2, 3, 1)


def small_net(seed, steps, **options):
    """Variables of a small CIFAR-10 net, trained once and kept under `runs/`."""
    name = "-".join(f"{key}{value}" for key, value in options.items()).replace(" ", "")
    path = WEIGHTS / f"small-{name}-{seed}-{steps}.pickle"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(_train(seed, steps, options)))
    return pickle.loads(path.read_bytes())


def _train(seed, steps, options):
    module = models.build("cifar_resnet18", **options)
    optimizer = optax.sgd(optax.cosine_onecycle_schedule(steps, 0.1), 0.9, nesterov=True)

    @jax.jit
    def step(variables, state, images, labels):
        def loss(params):
            logits, stats = models.train_apply(module, {**variables, "params": params}, images, MEAN, STD)
            return cross_entropy(logits, labels).mean(), stats

        (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        updates, state = optimizer.update(grads, state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, "batch_stats": stats}, state, value

    variables = jax.jit(module.init)(jax.random.key(seed), jnp.zeros((1, 32, 32, 3)))
    state = optimizer.init(variables["params"])
    batches = data.train_batches(data.load("cifar10", "train"), 64, seed=seed)
    for _ in tqdm(range(steps)):
        batch = next(batches)
        variables, state, _ = step(variables, state, data.to_float(batch.images), jnp.asarray(batch.labels))
    return jax.device_get(variables)


def test_images(count):
    """The first test images as floats, and their labels."""
    images = data.load("cifar10", "test").subset(count)
    return images.images.astype(np.float32) / 255, images.labels.astype(np.int32)


def environment():
    """What the numbers were measured on."""
    return {
        "processor": _processor(),
        "cores": torch.get_num_threads(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "backend": jax.default_backend(),
    }


def _processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
