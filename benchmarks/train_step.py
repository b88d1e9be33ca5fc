"""What does each mechanism cost? Training steps of every mechanism relative to ST, and against PyTorch.

    python -m benchmarks.train_step [--batch 32 128] [--repeats 3] [--width 64] [--mechanisms …] [--no-torch]

All contenders train the same CIFAR ResNet-18 on the same batch and take turns; medians. At the first batch
size all mechanisms, at others those that PyTorch has here. The least that a
mechanism can cost, in passes through the net: ST 3 (forward, back to the weights, back to the layers), SAM 6,
IR and JR with one projection 6 (forward, back to the images, and back through both), ER 6 (the gradient and
its tangent), SAM&IR 12, LookSAM 3.6 (a step that looks ahead takes 6, the other four 3; with few repeats only
one kind is timed), AT 2 per attack step and 3.
PyTorch (ST, SAM, IR; eager; NCHW and channels_last) does the same arithmetic with plain autograd.
Writes `benchmarks/results/train_step.json`.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads sleep where they would spin

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))

import torch
from harness import device_name
from models import take_turns
from torch_cifar import ResNet

from configs import common
from configs.methods import method
from transferjax.study import networks, specs
from transferjax.typing import Batch

LEAST = {"SAM": 6, "ASAM": 6, "IR": 6, "JR": 6, "ER": 6, "SAM&IR": 12, "SAM&JR": 12, "AT": 23, "LookSAM": 3.6}
MECHANISMS = (
    "ST",
    "MU_1",
    "CM_1",
    "CO_1",
    "LS_1",
    "IR",
    "JR",
    "ER",
    "SAM",
    "ASAM",
    "LookSAM",
    "SAM&IR",
    "SAM&JR",
    "AT",
)
PEERS = ("ST", "SAM", "IR")  # in PyTorch too
RATE, RHO, WEIGHT = 0.01, 0.1, 0.5


def batch_of(size: int) -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        jnp.asarray(rng.random((size, 32, 32, 3)), jnp.float32), jnp.eye(10)[rng.integers(10, size=size)]
    )


def ours(mechanism: str, width: int, batch: Batch) -> Callable[[], object]:
    """One jitted step of a mechanism, with its state."""
    source, training = common.data("cifar10", "train"), common.training()
    options = {"parts": method(mechanism), "data": source, "training": training, **common.CIFAR10}
    fields = common.network("cifar_resnet18", {"width": width}, **options)
    spec = specs.build(specs.Network, fields, mechanism)
    step = networks.train_step(spec, 10, 100)
    init = jax.jit(networks.module_of(spec, 10).init)
    state = [step.init(init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))), batch)]
    update = jax.jit(step.update, donate_argnums=0)

    def run() -> object:
        state[0] = update(state[0], jax.random.key(0), batch)
        return jax.block_until_ready(state[0].params)

    return run


def theirs(mechanism: str, width: int, batch: Batch, layout: torch.memory_format) -> Callable[[], object]:
    """The same step in PyTorch eager."""
    net = ResNet((2, 2, 2, 2), False) if width == 64 else None
    if net is None:
        raise ValueError("the PyTorch peer has width 64; leave it out with --no-torch")
    net = net.to(memory_format=layout).train()
    x = torch.from_numpy(np.asarray(batch.images).transpose(0, 3, 1, 2).copy()).to(memory_format=layout)
    y = torch.from_numpy(np.asarray(batch.targets))
    optimizer = torch.optim.SGD(net.parameters(), RATE, 0.9, weight_decay=5e-4)
    params = list(net.parameters())

    def loss() -> torch.Tensor:
        z = x.detach().requires_grad_(mechanism == "IR")
        value = torch.nn.functional.cross_entropy(net(z), y)
        if mechanism != "IR":
            return value
        (grads,) = torch.autograd.grad(value, z, create_graph=True)
        return value + WEIGHT * grads.norm()

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        if mechanism == "SAM":
            with torch.no_grad():
                norm = torch.stack([p.grad.norm() for p in params]).norm()
                moves = [p.grad * (RHO / norm) for p in params]
                torch._foreach_add_(params, moves)
            optimizer.zero_grad()
            loss().backward()
            with torch.no_grad():
                torch._foreach_sub_(params, moves)
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--mechanisms", nargs="+", default=list(MECHANISMS))
    parser.add_argument("--torch", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "train_step.json")
    flags = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    results = []
    for size in flags.batch:
        batch = batch_of(size)
        mechanisms = flags.mechanisms if size == flags.batch[0] else PEERS
        runs = {name: ours(name, flags.width, batch) for name in tqdm(mechanisms, "prepare", disable=None)}
        if flags.torch:
            for name in PEERS:
                runs[f"{name} torch NCHW"] = theirs(name, flags.width, batch, torch.contiguous_format)
                runs[f"{name} torch channels_last"] = theirs(name, flags.width, batch, torch.channels_last)
        seconds = take_turns(runs, flags.repeats)
        for name, s in seconds.items():
            row = {"batch": size, "contender": name, "images/s": size / s, "cost": s / seconds["ST"]}
            row["least cost"] = LEAST.get(name, 3) / 3 if " " not in name else None
            results.append(row)
            print(f"batch {size:4d}  {name:24s} {size / s:8.1f} images/s  {row['cost']:6.2f} x ST")
    report = {"device": device_name(), "jax": jax.__version__, "torch": torch.__version__}
    settings = {"width": flags.width, "repeats": flags.repeats}
    flags.out.write_text(json.dumps({**report, "settings": settings, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
