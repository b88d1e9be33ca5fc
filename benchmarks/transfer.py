"""Do the random attacks transfer as often as the peers' do? Five seeds each, one surrogate, one target.

DI-FGSM and VMI-FGSM against torchattacks; PGN, TPA, Admix and SSA, which no library on PyPI has, against
plain PyTorch versions written from the papers. Ten steps of a tenth of the budget and the papers' numbers of
samples, the same on both sides. Ours draw per image, theirs per batch where the published codes do: the rates
should agree anyway. Standard errors are over seeds.

What it showed (`results/transfer.json`: 5 neighbors or samples): all six agree within 1.7 standard errors
over five seeds, with 200 images, and SSA with 1000, where both fool 81.8 %. (With 200 images SSA's mean over
eight seeds was 1.2 points below the peer's, 3.0 standard errors: that was chance, or these 200 images.)

    python benchmarks/transfer.py [--images 200] [--seeds 5] [--neighbors 20] [--attacks dim ssa …]

The row `noise` is what random signs of the same size reach, without any surrogate.

Rows say where they ran, and of how many images and neighbors they are; attacks not asked for keep theirs.
"""

import argparse
import json
import os
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # PyTorch's threads sleep where they would spin

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_attacks
import torchattacks
from peers import RESULTS, both, environment, test_images, to_numpy, to_torch
from trained import predictor, trained_variables

from transferjax import attacks
from transferjax.files import write_text

SURROGATE, TARGET = {"blocks": (1, 1), "width": 16}, {"blocks": (1, 1, 1), "width": 16}
EPS, STEPS = 6 / 255, 10
STEP = EPS / STEPS


def pairs(net, pool, n):
    """name -> (our attack, (images, labels) -> the peer's images)"""
    ours = {"eps": EPS, "steps": STEPS, "step_size": STEP}
    torchs = {"eps": EPS, "alpha": STEP, "steps": STEPS, "decay": 1.0}
    plain = EPS, STEP, STEPS

    def own(attack, *more):
        return lambda x, y: attack(net, x, y, *plain, *more)

    dim = torchattacks.DIFGSM(net, **torchs, resize_rate=0.8, diversity_prob=0.7)
    vmi = torchattacks.VMIFGSM(net, **torchs, N=n, beta=1.5)
    return {
        "dim": (attacks.dim(**ours, rate=0.8, prob=0.7), dim),
        "vmi_fgsm": (attacks.vmi_fgsm(**ours, neighbors=n, zeta=1.5), vmi),
        "pgn": (attacks.pgn(**ours, neighbors=n), own(torch_attacks.pgn, n)),
        "tpa": (
            attacks.tpa(**ours, neighbors=n // 2, radius=0.05, beta=EPS, random_start=False),
            own(torch_attacks.tpa, n // 2),
        ),
        "admix": (attacks.admix(**ours, pool=pool), own(torch_attacks.admix)),
        "ssa": (attacks.ssa(**ours, samples=n), own(torch_attacks.ssa, n)),
    }


def noisy(images, seed):
    """Random signs of the budget."""
    signs = np.random.default_rng(seed).choice(np.float32([-1, 1]), np.shape(images))
    return np.clip(images + np.float32(EPS) * signs, 0, 1)


def summary(rates):
    """Means and standard errors in percent, and how far apart they are."""
    means = {who: float(np.mean(values)) for who, values in rates.items()}
    errors = {who: float(np.std(values, ddof=1) / np.sqrt(len(values))) for who, values in rates.items()}
    joint, difference = float(np.hypot(*errors.values())), means["ours"] - means["peer"]
    return {
        "rates": rates,
        "means": {who: round(value, 2) for who, value in means.items()},
        "standard_errors": {who: round(value, 3) for who, value in errors.items()},
        "difference_in_standard_errors": round(difference / joint, 2) if joint else 0.0,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--neighbors", type=int, default=20)
    parser.add_argument("--train-steps", type=int, default=2000)
    parser.add_argument("--attacks", nargs="+", default=None)
    arguments = parser.parse_args()
    predict, net = both(trained_variables(arguments.train_steps, **SURROGATE)[0], **SURROGATE)
    target = predictor(trained_variables(arguments.train_steps, seed=1, **TARGET)[0], **TARGET)
    images, labels = test_images(arguments.images)
    wrong = jax.jit(lambda target, x: (target(x).argmax(-1) != labels).mean())
    fooled = lambda x: round(100 * float(wrong(target, x)), 2)  # noqa: E731
    path = RESULTS / "transfer.json"
    rows = json.loads(path.read_text())["attacks"] if path.exists() else {}
    result = {"eps": EPS, "step_size": STEP, "steps": STEPS, "attacks": rows}
    of = {"environment": environment()} | {
        name: getattr(arguments, name) for name in ("images", "neighbors", "train_steps")
    }
    of["clean_error_of_target"] = fooled(images)
    noise = [fooled(noisy(images, seed)) for seed in range(arguments.seeds)]
    rows["noise"] = of | {"rates": noise, "mean": round(float(np.mean(noise)), 2)}
    print("noise", rows["noise"], flush=True)
    for name, (ours, theirs) in pairs(net, images, arguments.neighbors).items():
        if arguments.attacks and name not in arguments.attacks:
            continue
        begin = time.perf_counter()
        attack, rates = jax.jit(ours), {"ours": [], "peer": []}
        for seed in range(arguments.seeds):
            x = attack(jax.random.key(seed), predict, jnp.asarray(images), jnp.asarray(labels))
            rates["ours"].append(fooled(x))
            torch.manual_seed(seed)
            y = theirs(to_torch(images), torch.tensor(labels, dtype=torch.long))
            rates["peer"].append(fooled(to_numpy(y)))
        rows[name] = of | summary(rates)
        print(name, rows[name], f"{time.perf_counter() - begin:.0f} s", flush=True)
        write_text(path, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
