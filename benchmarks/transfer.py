"""Do the random attacks transfer as often as the peers' do? Five seeds each, one surrogate, one target.

DI-FGSM and VMI-FGSM against torchattacks; PGN, TPA, Admix and SSA, which no library on PyPI has, against
plain PyTorch versions written from the papers. Ours draw per image, theirs per batch: the rates should agree
anyway.

    python benchmarks/transfer.py [--images 200] [--seeds 5]
"""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_attacks
import torchattacks
from peers import RESULTS, both, environment, test_images, to_numpy, to_torch
from trained import predictor, trained_variables

from transferjax import attacks

SURROGATE, TARGET = {"blocks": (1, 1), "width": 16}, {"blocks": (1, 1, 1), "width": 8}
EPS, STEP, STEPS, N = 6 / 255, 1.5 / 255, 5, 3


def pairs(net, pool):
    """name -> (our attack, (images, labels) -> the peer's images)"""
    ours = {"eps": EPS, "steps": STEPS, "step_size": STEP}
    torchs = {"eps": EPS, "alpha": STEP, "steps": STEPS, "decay": 1.0}
    plain = EPS, STEP, STEPS

    def own(attack, *more):
        return lambda x, y: attack(net, x, y, *plain, *more)

    dim = torchattacks.DIFGSM(net, **torchs, resize_rate=0.8, diversity_prob=0.7)
    vmi = torchattacks.VMIFGSM(net, **torchs, N=N, beta=1.5)
    return {
        "dim": (attacks.dim(**ours, rate=0.8, prob=0.7), dim),
        "vmi_fgsm": (attacks.vmi_fgsm(**ours, neighbors=N, zeta=1.5), vmi),
        "pgn": (attacks.pgn(**ours, neighbors=N), own(torch_attacks.pgn, N)),
        "tpa": (attacks.tpa(**ours, neighbors=N, variant="official"), own(torch_attacks.tpa, N)),
        "admix": (attacks.admix(**ours, pool=pool), own(torch_attacks.admix)),
        "ssa": (attacks.ssa(**ours, samples=N), own(torch_attacks.ssa, N)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train-steps", type=int, default=1500)
    parser.add_argument("--target-steps", type=int, default=500)
    arguments = parser.parse_args()
    predict, net = both(trained_variables(arguments.train_steps, **SURROGATE)[0], **SURROGATE)
    target = predictor(trained_variables(arguments.target_steps, seed=1, **TARGET)[0], **TARGET)
    images, labels = test_images(arguments.images)
    fooled = jax.jit(lambda x: (target(x).argmax(-1) != labels).mean())
    result = {"environment": environment(), **vars(arguments), "eps": EPS, "step_size": STEP, "steps": STEPS}
    result |= {"neighbors": N, "clean_error_of_target": float(fooled(images)), "attacks": {}}
    for name, (ours, theirs) in pairs(net, images).items():
        attack, rates = jax.jit(ours), {"ours": [], "peer": []}
        for seed in range(arguments.seeds):
            x = attack(jax.random.key(seed), predict, jnp.asarray(images), jnp.asarray(labels))
            rates["ours"].append(float(fooled(x)))
            torch.manual_seed(seed)
            y = theirs(to_torch(images), torch.tensor(labels, dtype=torch.long))
            rates["peer"].append(float(fooled(to_numpy(y))))
        means = {who: float(np.mean(values)) for who, values in rates.items()}
        errors = {who: float(np.std(values, ddof=1) / np.sqrt(len(values))) for who, values in rates.items()}
        joint = float(np.hypot(*errors.values()))
        difference = means["ours"] - means["peer"]
        result["attacks"][name] = {
            "rates": rates,
            "means": means,
            "standard_errors": errors,
            "difference_in_standard_errors": difference / joint if joint else 0.0,
        }
        print(
            name,
            means,
            errors,
            round(result["attacks"][name]["difference_in_standard_errors"], 2),
            flush=True,
        )
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "transfer.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
