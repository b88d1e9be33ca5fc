"""Images per second of attacks on `cifar_resnet18`: ours against torchattacks and foolbox, on CPU.

The same trained weights in both frameworks, compilation left out, the libraries side by side in one run.
PyTorch runs in its default layout and in channels_last. All but PGD-20 take fewer steps than they usually do,
the same for all; images/s is per finished image.

    python benchmarks/attacks.py [--batches 32 128] [--repeats 3]
"""

import argparse
import json
import statistics
import time

import foolbox
import jax
import jax.numpy as jnp
import torch
import torch_attacks
import torchattacks
from peers import RESULTS, both, environment, test_images, to_torch
from trained import trained_variables

from transferjax import attacks

EPS, STEP = 8 / 255, 2 / 255


def ours():
    """name -> (attack, forward-backward passes per image)"""
    return {
        "pgd_20": (attacks.pgd(EPS, 20, step_size=STEP), 20),
        "mi_fgsm_5": (attacks.mi_fgsm(EPS, 5, step_size=STEP), 5),
        "dim_5": (attacks.dim(EPS, 5, step_size=STEP), 5),
        "vmi_fgsm_1x5": (attacks.vmi_fgsm(EPS, 1, step_size=STEP, neighbors=5), 6),
        "pgn_1x10": (attacks.pgn(EPS, 1, step_size=STEP, neighbors=10), 20),
        "tpa_1x5": (attacks.tpa(EPS, 1, step_size=STEP, neighbors=5, variant="official"), 11),
        "apgd_ce_10": (attacks.apgd(EPS, 10, until_success=False), 11),
        "auto_attack": (attacks.auto_attack(EPS, steps=10), None),
    }


def in_torch(net):
    """name -> library -> (images, labels) -> images"""
    short = {"eps": EPS, "alpha": STEP}
    f_model = foolbox.PyTorchModel(net, bounds=(0, 1))
    f_pgd = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=20)
    return {
        "pgd_20": {
            "torchattacks": torchattacks.PGD(net, steps=20, **short),
            "foolbox": lambda x, y: f_pgd(f_model, x, y, epsilons=EPS)[1],
        },
        "mi_fgsm_5": {"torchattacks": torchattacks.MIFGSM(net, steps=5, **short)},
        "dim_5": {"torchattacks": torchattacks.DIFGSM(net, steps=5, decay=1.0, **short)},
        "vmi_fgsm_1x5": {"torchattacks": torchattacks.VMIFGSM(net, steps=1, N=5, **short)},
        "pgn_1x10": {"plain PyTorch": lambda x, y: torch_attacks.pgn(net, x, y, EPS, STEP, 1, 10)},
        "tpa_1x5": {"plain PyTorch": lambda x, y: torch_attacks.tpa(net, x, y, EPS, STEP, 1, 5)},
        "apgd_ce_10": {"torchattacks": torchattacks.APGD(net, eps=EPS, steps=10, loss="ce")},
        "auto_attack": {"torchattacks": torchattacks.AutoAttack(net, eps=EPS, n_classes=10)},
    }


def runs(name, attack, nets, predict, images, labels):
    """What to time: label -> a function without arguments."""
    key = jax.random.key(0)
    inputs = key, predict, jnp.asarray(images), jnp.asarray(labels)
    compiled = jax.jit(attack).lower(*inputs).compile()
    timed = {"ours": lambda: jax.block_until_ready(compiled(*inputs))}
    y = torch.tensor(labels, dtype=torch.long)
    for layout, net in nets.items():
        x = to_torch(images).to(memory_format=getattr(torch, layout))
        for library, peer in in_torch(net)[name].items():
            timed[f"{library}, {layout}"] = lambda peer=peer, x=x: peer(x, y)
    return timed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--attacks", nargs="+", default=None)
    arguments = parser.parse_args()
    variables, accuracy = trained_variables()
    predict, net = both(variables)
    _, other = both(variables)
    nets = {"contiguous_format": net, "channels_last": other.to(memory_format=torch.channels_last)}
    result = {"environment": environment(), "repeats": arguments.repeats, "test_accuracy": accuracy}
    result["images_per_second"] = {}
    for batch in arguments.batches:
        images, labels = test_images(batch)
        for name, (attack, passes) in ours().items():
            if arguments.attacks and name not in arguments.attacks:
                continue
            timed = runs(name, attack, nets, predict, images, labels)
            seconds = {label: [] for label in timed}
            for _ in range(arguments.repeats):  # side by side: a busy machine slows all alike
                for label, run in timed.items():
                    begin = time.perf_counter()
                    run()
                    seconds[label].append(time.perf_counter() - begin)
            speeds = {label: round(batch / statistics.median(s), 3) for label, s in seconds.items()}
            best = max(speed for label, speed in speeds.items() if label != "ours")
            row = {**speeds, "passes": passes, "ours_relative_to_best_peer": round(speeds["ours"] / best, 3)}
            result["images_per_second"][f"{name}, batch {batch}"] = row
            print(name, batch, row, flush=True)
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / "attacks.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
