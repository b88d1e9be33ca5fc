"""Is AutoAttack what the official code, as torchattacks ships it, says? Robust accuracy under its parts.

    python benchmarks/auto_attack.py [--images 500] [--steps 20] [--queries 300]

A small CIFAR-10 net with the same weights in both, both in batches of the same test images; then the worst
case over the attacks of the standard version. Budgets are small because the net was not trained to be robust.
FAB begins at the clean image, so that one run says all; the others are repeated over seeds. Nothing is timed:
`attacks.py` has APGD.
"""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchattacks
from peers import both, test_images, to_numpy, to_torch
from trained import trained_variables

from transferjax import attacks

NET = {"blocks": (1, 1), "width": 16}
BUDGETS = {"linf": 1.0 / 255, "l2": 0.15}
STANDARD = ("apgd_ce", "apgd_t", "fab_t", "square")
SEEDS = {"apgd_ce": 4, "apgd_dlr": 4, "apgd_t": 2, "fab": 1, "fab_t": 1, "square": 3}


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
    common = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": eps}
    return {
        "apgd_ce": torchattacks.APGD(net, steps=steps, loss="ce", **common),
        "apgd_dlr": torchattacks.APGD(net, steps=steps, loss="dlr", **common),
        "apgd_t": torchattacks.APGDT(net, steps=steps, n_classes=10, **common),
        "fab": torchattacks.FAB(net, steps=steps // 2, n_classes=10, **common),
        "fab_t": torchattacks.FAB(net, steps=steps // 2, multi_targeted=True, n_classes=10, **common),
        "square": torchattacks.Square(net, n_queries=queries, loss="margin", **common),
    }


def run_ours(attack, predict, batches):
    """seed -> images; compiled once."""
    first = jax.random.split(jax.random.key(0), len(batches[0][0])), predict, *batches[0]
    compiled = jax.jit(attack).lower(*first).compile()

    def run(seed):
        keys = jax.random.split(jax.random.key(seed), (len(batches), len(batches[0][0])))
        return [np.asarray(compiled(key, predict, *batch)) for key, batch in zip(keys, batches, strict=True)]

    return run


def run_theirs(attack, batches):
    def run(seed):
        attack.seed = seed
        return [to_numpy(attack(to_torch(x), torch.tensor(y, dtype=torch.long))) for x, y in batches]

    return run


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--batch", type=int, default=125)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--train-steps", type=int, default=2000)
    parser.add_argument("--attacks", nargs="+", default=list(SEEDS))
    flags = parser.parse_args()
    predict, net = both(trained_variables(flags.train_steps, **NET)[0], **NET)
    images, labels = test_images(flags.images)
    starts = range(0, len(images), flags.batch)
    batches = [(images[i : i + flags.batch], labels[i : i + flags.batch]) for i in starts]
    classes = jax.jit(lambda predict, x: predict(x).argmax(-1))

    def alive(x, norm, eps):
        """Which images stay right."""
        size = np.linalg.norm((x - images).reshape(len(x), -1), np.inf if norm == "linf" else 2, axis=1)
        if size.max() > eps + 1e-5 or x.min() < 0 or x.max() > 1:
            raise RuntimeError(f"an attack left the budget: {size.max()}")
        return np.asarray(classes(predict, jnp.asarray(x))) == labels

    percent = lambda right: round(100 * float(np.mean(right)), 2)  # noqa: E731
    clean = percent(alive(images, "linf", 0.0))
    rows = harness.kept("auto_attack", flags, "rows")
    rows["clean images"] = {"ours, %": clean, "torchattacks, %": clean}
    for norm, eps in BUDGETS.items():
        whole = f"{norm}, worst case of the standard version"
        if whole in rows:
            continue
        settings = norm, eps, flags.steps, flags.queries
        mine, peers, survivors = ours(*settings), theirs(net, *settings), {"ours": [], "torchattacks": []}
        for name in flags.attacks:
            runs = {
                "ours": run_ours(mine[name], predict, batches),
                "torchattacks": run_theirs(peers[name], batches),
            }
            row = rows[f"{norm}, {name}"] = {}
            for who, run in runs.items():
                found = [alive(np.concatenate(run(seed)), norm, eps) for seed in range(SEEDS[name])]
                row[f"{who}, %"] = percent(found)
                row[f"{who}, range over seeds"] = round(float(np.ptp([percent(one) for one in found])), 2)
                survivors[who] += [found[0]] if name in STANDARD else []
            print(norm, name, row, flush=True)
        rows[whole] = {f"{who}, %": percent(np.all(found, 0)) for who, found in survivors.items() if found}
        harness.save("auto_attack", "Is AutoAttack what the official code says?", flags, rows=rows)


if __name__ == "__main__":
    main()
