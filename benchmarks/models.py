"""How fast are the five CIFAR nets? Ours against PyTorch eager, on one CPU, in one run.

    python benchmarks/models.py [--nets cifar_resnet18 …] [--batch 32] [--seconds 20]

Images per second of the forward pass, the input gradient (evaluation mode) and a training step (SGD with
momentum, batch statistics moving), with the same weights; PyTorch with NCHW and with channels_last tensors.
The contenders take turns for `--seconds`, and the fastest round of each counts, because what else runs on
the machine only ever adds time; how much slower the median round was is noted. First the logits are compared;
how long ours compiles is noted too (nothing comes from a cache). A last line bounds what folding batch
normalization into convolutions could gain: a net with biases instead. Writes `benchmarks/results/models.json`
after each net.

On two CPU cores PyTorch is mostly faster: ours has 0.65 to 1.08 of the better layout's images/s forward
(ahead on ResNet-50), 0.58 to 0.75 for the input gradient and 0.39 to 0.68 for a training step (DenseNet and
ResNet-50 are last). XLA's convolutions (Eigen) reach less of the machine than oneDNN's, and their gradients
w.r.t. weights least. Folding the normalization would gain nothing measurable (1.02 and 1.03).
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from harness import device_name
from torch_cifar import NETS

from transferjax import models
from transferjax.files import write_text
from transferjax.losses import cross_entropy
from transferjax.models import Net
from transferjax.models.layers import Layers
from transferjax.typing import PyTree

Run = Callable[[], object]
RATE, MOMENTUM = 0.01, 0.9


def random_variables(module: Net) -> PyTree:
    """Weights of a trained net's scale, drawn without compiling."""
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        match path[-1].key:
            case "kernel":
                return rng.standard_normal(leaf.shape, np.float32) * (2 / np.prod(leaf.shape[:-1])) ** 0.5
            case "scale" | "var":
                return np.ones(leaf.shape, np.float32)
            case _:
                return np.zeros(leaf.shape, np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def ours(name: str, images: np.ndarray, labels: np.ndarray) -> tuple[dict[str, Run], dict[str, float]]:
    """The three runs, compiled, and the seconds that took."""
    module = models.build(name)
    variables = jax.device_put(random_variables(module))
    predict, x, y = models.predictor(module, variables), jnp.asarray(images), jnp.asarray(labels)
    optimizer = optax.sgd(RATE, MOMENTUM)
    state = (variables, optimizer.init(variables["params"]))

    def gradient(predict, x):
        return jax.grad(lambda x: cross_entropy(predict(x), y).sum())(x)

    def train(state, x):
        variables, memory = state

        def loss(params):
            new = {**variables, "params": params}
            logits, stats = models.train_apply(module, new, x, key=jax.random.key(0))
            return cross_entropy(logits, y).mean(), stats

        grads, stats = jax.grad(loss, has_aux=True)(variables["params"])
        updates, memory = optimizer.update(grads, memory)
        params = optax.apply_updates(variables["params"], updates)
        return {**variables, "params": params, "batch_stats": stats}, memory

    runs, seconds = {}, {}
    jobs = {
        "forward": (lambda predict, x: predict(x), predict),
        "input gradient": (gradient, predict),
        "train step": (train, state),
    }
    for job, (function, argument) in jobs.items():
        start = time.perf_counter()
        compiled = jax.jit(function).lower(argument, x).compile()
        seconds[job] = time.perf_counter() - start
        runs[job] = lambda compiled=compiled, argument=argument: jax.block_until_ready(compiled(argument, x))
    return runs, seconds


def theirs(name: str, images: np.ndarray, labels: np.ndarray, layout: torch.memory_format) -> dict[str, Run]:
    """The three runs in PyTorch eager with our weights."""
    net = NETS[name]()
    state = models.to_torch(random_variables(models.build(name)))
    net.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    net = net.to(memory_format=layout)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(memory_format=layout)
    y = torch.from_numpy(labels)
    optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)

    def forward() -> torch.Tensor:
        net.eval()
        with torch.no_grad():
            return net(x)

    def gradient() -> torch.Tensor:
        net.eval().requires_grad_(False)
        z = x.clone().requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(net(z), y, reduction="sum")
        return torch.autograd.grad(loss, z)[0]

    def train() -> None:
        net.train().requires_grad_(True)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    return {"forward": forward, "input gradient": gradient, "train step": train}


def rounds(runs: dict[str, Run], repeats: int, seconds: float = 0.0) -> dict[str, list[float]]:
    """Sorted seconds of each run: `repeats` rounds, and more until so many seconds have passed.

    One round before only warms up.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    begin = time.perf_counter()
    while len(times[next(iter(runs))]) < repeats or time.perf_counter() - begin < seconds:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: sorted(values) for name, values in times.items()}


def take_turns(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    """Median seconds of each run."""
    return {name: statistics.median(times) for name, times in rounds(runs, repeats).items()}


def compare(name: str, batch: int, seconds: float) -> list[dict[str, object]]:
    """One row for each job of one net."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((batch, 32, 32, 3), np.float32), np.arange(batch) % 10
    jax_runs, compile_s = ours(name, images, labels)
    nchw = theirs(name, images, labels, torch.contiguous_format)
    nhwc = theirs(name, images, labels, torch.channels_last)
    own, reference = np.asarray(jax_runs["forward"]()), nchw["forward"]().numpy()
    difference = np.abs(own - reference).max() / np.abs(reference).max()
    assert difference < 1e-4, f"{name}: logits differ by {difference} of the largest"
    rows: list[dict[str, object]] = []
    for job, run in jax_runs.items():
        times = rounds({"ours": run, "torch NCHW": nchw[job], "torch channels_last": nhwc[job]}, 3, seconds)
        row = {key: batch / values[0] for key, values in times.items()}
        best = max(row["torch NCHW"], row["torch channels_last"])
        spread = {key: statistics.median(values) / values[0] for key, values in times.items()}
        rows.append(
            {
                "net": name,
                "job": job,
                **row,
                "ratio to best": row["ours"] / best,
                "compile_s": compile_s[job],
                "rounds": len(times["ours"]),
                "median over fastest": spread,
            }
        )
    return rows


class Bias(nn.Module):
    """What is left of batch normalization when it is folded into the convolution before it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.param("bias", nn.initializers.zeros, (x.shape[-1],))


def folding(name: str, batch: int, seconds: float) -> dict[str, float]:
    """Seconds with batch normalization in evaluation mode over seconds with a bias instead."""
    rng = np.random.default_rng(0)
    images, labels = rng.random((batch, 32, 32, 3), np.float32), np.arange(batch) % 10
    plain, _ = ours(name, images, labels)
    with mock.patch.object(Layers, "norm", lambda self, name: Bias(name=name)):
        folded, _ = ours(name, images, labels)
    times = {
        job: rounds({"plain": plain[job], "folded": folded[job]}, 3, seconds)
        for job in ("forward", "input gradient")
    }
    return {job: t["plain"][0] / t["folded"][0] for job, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20, help="for each job of each net")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "models.json")
    flags = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    jax.config.update("jax_enable_compilation_cache", False)  # compiling is timed
    report: dict[str, object] = {
        "device": device_name(),
        "jax": jax.__version__,
        "torch": torch.__version__,
        "load_average_before": os.getloadavg()[0],
        "settings": {"batch": flags.batch, "seconds": flags.seconds, "unit": "images/s of the fastest round"},
    }
    rows: list[dict[str, object]] = []
    for name in flags.nets:
        for row in compare(name, flags.batch, flags.seconds):
            print("  ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
            rows.append(row)
        write_text(flags.out, json.dumps(report | {"results": rows}, indent=2) + "\n")
    gain = folding("cifar_resnet18", flags.batch, flags.seconds)
    print(gain)
    report |= {"results": rows, "speed-up if batch normalization were folded": gain}
    write_text(flags.out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
