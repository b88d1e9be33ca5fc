"""Robust accuracy under AutoAttack's parts: ours against the implementation that ships in torchattacks.

A small CIFAR-10 net, the same weights in both, every attack on the same images; and the worst case over the
attacks of the standard version. Budgets are small because the net was not trained to be robust.

    python benchmarks/auto_attack.py [--images 500] [--steps 20] [--queries 300]
"""

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchattacks
from peers import RESULTS, both, environment, test_images, to_numpy, to_torch
from trained import trained_variables

from transferjax import attacks

NET = {"blocks": (1, 1), "width": 16}
BUDGETS = {"linf": 1.0 / 255, "l2": 0.15}
STANDARD = ("apgd_ce", "apgd_t", "fab_t", "square")
BATCH = 125


def ours(norm, eps, steps, queries):
    return {
        "apgd_ce": attacks.apgd(eps, steps, norm=norm),
        "apgd_dlr": attacks.apgd(eps, steps, norm=norm, loss="dlr"),
        "apgd_t": attacks.apgd_t(eps, steps, norm=norm),
        "fab": attacks.fab(eps, steps // 2, norm=norm),
        "fab_t": attacks.fab(eps, steps // 2, norm=norm, target_classes=9),
        "square": attacks.square(eps, queries, norm=norm),
    }


def theirs(net, norm, eps, steps, queries):
    common = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": eps, "seed": 0}
    return {
        "apgd_ce": torchattacks.APGD(net, steps=steps, loss="ce", **common),
        "apgd_dlr": torchattacks.APGD(net, steps=steps, loss="dlr", **common),
        "apgd_t": torchattacks.APGDT(net, steps=steps, n_classes=10, **common),
        "fab": torchattacks.FAB(net, steps=steps // 2, n_classes=10, **common),
        "fab_t": torchattacks.FAB(net, steps=steps // 2, multi_targeted=True, n_classes=10, **common),
        "square": torchattacks.Square(net, n_queries=queries, loss="margin", **common),
    }


def run_ours(attack, predict, images, labels):
    jitted = jax.jit(attack)
    parts = range(0, len(images), BATCH)
    keys = jax.random.split(jax.random.key(0), len(images))
    jitted.lower(keys[:BATCH], predict, images[:BATCH], labels[:BATCH]).compile()
    begin = time.perf_counter()
    x = [jitted(keys[i : i + BATCH], predict, images[i : i + BATCH], labels[i : i + BATCH]) for i in parts]
    return np.concatenate([np.asarray(part) for part in x]), time.perf_counter() - begin


def run_theirs(attack, images, labels):
    begin = time.perf_counter()
    x = attack(to_torch(images), torch.tensor(labels, dtype=torch.long))
    return to_numpy(x), time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--train-steps", type=int, default=1500)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    predict, net = both(trained_variables(arguments.train_steps, **NET)[0], **NET)
    images, labels = test_images(arguments.images)
    logits = jax.jit(lambda predict, x: predict(x))

    def right(x):
        return np.asarray(logits(predict, jnp.asarray(x)).argmax(-1)) == labels

    result = {"environment": environment(), **vars(arguments), "clean_accuracy": float(right(images).mean())}
    for norm, eps in BUDGETS.items():
        table = {}
        settings = norm, eps, arguments.steps, arguments.queries
        pairs = zip(ours(*settings).items(), theirs(net, *settings).values(), strict=True)
        survivors = {"ours": [], "torchattacks": []}
        for (name, attack), peer in pairs:
            runs = {
                "ours": run_ours(attack, predict, images, labels),
                "torchattacks": run_theirs(peer, images, labels),
            }
            table[name] = {}
            for who, (x, seconds) in runs.items():
                alive = right(x)
                survivors[who] += [alive] if name in STANDARD else []
                table[name][who] = {"robust_accuracy": float(alive.mean()), "seconds": round(seconds, 2)}
            print(norm, name, table[name], flush=True)
        worst = {who: float(np.all(alive, 0).mean()) for who, alive in survivors.items()}
        result[norm] = {"eps": eps, "attacks": table, "worst_case_of_standard": worst}
        print(norm, worst, flush=True)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "auto_attack.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
