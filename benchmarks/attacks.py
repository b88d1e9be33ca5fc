"""Images per second of attacks on `cifar_resnet18`: ours against torchattacks and foolbox, on CPU.

The same weights in both frameworks, compilation left out; the contenders take turns in one run, medians.
PyTorch runs in its default layout and in channels_last, its parameters frozen. An attack is a number of
passes (forward and back) that all contenders share, so a few steps or neighbors are timed and scaled to the
attack's own number: `measured` of `passes`. Weights do not matter to the speed, so they are random; labels
are what the net says, or APGD would skip images. AutoAttack is represented by its APGD-CE.

What it showed on two cores (`results/attacks.json`, medians of three rounds): against the best peer in its
default layout ours has 0.70 to 1.01 of the speed at batch 32 and 0.88 to 1.23 at batch 128; against the best
in channels_last 0.65 to 0.92 and 0.72 to 1.15. VMI-FGSM is ahead of both, 1.7 to 2.0 times. So the goal,
level with channels_last, is not reached. The profile: all take the same passes through the same convolutions.
One by one at batch 32, these run in XLA at 155 GFLOP/s with 64 channels (by rows), 185 with 128, 210 with 256
and 235 with 512 (by taps, see `transferjax.models.conv`), and 90 to 180 with stride 2; in PyTorch's oneDNN at
215, 225, 160 on the last 4 x 4 pixels, and 150 to 200 with stride 2. That adds up to 6.4 ms per image forward
in XLA and 5.6 in oneDNN, but the whole net takes 7.9; the rest, normalization, activations and sums, was not
profiled one by one.

    python benchmarks/attacks.py [--batches 32 128] [--repeats 3]
"""

import argparse
import json
import os
import statistics
import time
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads sleep where they would spin

import foolbox
import jax
import jax.numpy as jnp
import torch
import torch_attacks
import torchattacks
from peers import RESULTS, both, environment, test_images, to_torch
from trained import MODEL

from transferjax import attacks, models

EPS, STEP = 8 / 255, 2 / 255


class Case(NamedTuple):
    """An attack in a short form: what is timed, its passes, and the passes of the whole attack."""

    attack: attacks.Recipe
    peers: dict[str, Any]  # library -> (net, images, labels) -> images
    measured: float
    passes: float


def cases(steps: int, n: int) -> dict[str, Case]:
    """The attacks, with so many steps, or one step with so many neighbors."""
    ours, theirs = {"eps": EPS, "step_size": STEP}, {"eps": EPS, "alpha": STEP}

    def ta(name, **options):
        return {"torchattacks": lambda net, x, y: getattr(torchattacks, name)(net, **options)(x, y)}

    def plain(attack, *options):
        return {"plain PyTorch": lambda net, x, y: attack(net, x, y, EPS, STEP, 1, *options)}

    def foolbox_pgd(net, x, y):
        model = foolbox.PyTorchModel(net, bounds=(0, 1))
        return foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=steps).run(model, x, y, epsilon=EPS)

    single = {"steps": 1, "neighbors": n, **ours}
    return {
        "pgd_20": Case(
            attacks.pgd(steps=steps, **ours),
            {**ta("PGD", steps=steps, **theirs), "foolbox": foolbox_pgd},
            steps,
            20,
        ),
        "mi_fgsm_10": Case(
            attacks.mi_fgsm(steps=steps, **ours), ta("MIFGSM", steps=steps, **theirs), steps, 10
        ),
        "dim_10": Case(
            attacks.dim(steps=steps, **ours), ta("DIFGSM", steps=steps, decay=1.0, **theirs), steps, 10
        ),
        "vmi_fgsm_10x20": Case(
            attacks.vmi_fgsm(**single), ta("VMIFGSM", steps=1, N=n, **theirs), 1 + n, 10 * 21
        ),
        "pgn_10x20": Case(attacks.pgn(**single), plain(torch_attacks.pgn, n), 2 * n, 10 * 40),
        "tpa_10x10": Case(
            attacks.tpa(radius=0.05, beta=EPS, random_start=False, **single),
            plain(torch_attacks.tpa, n),
            1 + 2 * n,
            10 * 21,
        ),
        "apgd_ce_100": Case(  # a pass at the start, and a forward pass that says who is right
            attacks.apgd(EPS, steps, until_success=False),
            ta("APGD", eps=EPS, steps=steps, loss="ce"),
            steps + 4 / 3,
            100 + 4 / 3,
        ),
    }


def runs(case, nets, predict, images, labels):
    """What to time: label -> a function without arguments."""
    inputs = jax.random.key(0), predict, jnp.asarray(images), jnp.asarray(labels)
    compiled = jax.jit(case.attack).lower(*inputs).compile()
    timed = {"ours": lambda: jax.block_until_ready(compiled(*inputs))}
    y = torch.tensor(labels, dtype=torch.long)
    for layout, net in nets.items():
        x = to_torch(images).to(memory_format=getattr(torch, layout))
        for library, peer in case.peers.items():
            timed[f"{library}, {layout}"] = lambda peer=peer, net=net, x=x: peer(net, x, y)
    return timed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--attacks", nargs="+", default=None)
    arguments = parser.parse_args()
    variables = jax.jit(models.build(MODEL).init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    predict, net = both(variables)
    nets = {"contiguous_format": net, "channels_last": both(variables)[1]}
    for layout in nets:
        nets[layout].to(memory_format=getattr(torch, layout)).requires_grad_(False)
    result = {"environment": environment(), "repeats": arguments.repeats, "images_per_second": {}}
    for batch in arguments.batches:
        images, _ = test_images(batch)
        labels = jax.device_get(jax.jit(lambda predict, x: predict(x).argmax(-1))(predict, images))
        for name, case in cases(*((4, 2) if batch <= 32 else (2, 1))).items():
            if arguments.attacks and name not in arguments.attacks:
                continue
            timed = runs(case, nets, predict, images, labels)
            seconds = {label: [] for label in timed}
            for _ in range(arguments.repeats):  # side by side: a busy machine slows all alike
                for label, run in timed.items():
                    begin = time.perf_counter()
                    run()
                    seconds[label].append(time.perf_counter() - begin)
            share = batch * case.measured / case.passes
            speeds = {label: round(share / statistics.median(s), 3) for label, s in seconds.items()}
            row = {**speeds, "measured": round(case.measured, 2), "passes": round(case.passes, 2)}
            for layout in nets:
                best = max(speed for label, speed in speeds.items() if label.endswith(layout))
                row[f"ours relative to the best, {layout}"] = round(speeds["ours"] / best, 3)
            result["images_per_second"][f"{name}, batch {batch}"] = row
            print(name, batch, row, flush=True)
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "attacks.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
