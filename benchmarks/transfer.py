"""Do the random attacks transfer as often as the peers' do? Several seeds each, one surrogate, one target.

    python benchmarks/transfer.py [--images 200] [--seeds 5] [--eps 6] [--attacks dim ssa …]

DI-FGSM and VMI-FGSM against torchattacks; PGN, TPA, Admix and SSA, which no library on PyPI has, against
plain PyTorch versions written from the papers. Ten steps of a tenth of the budget and the papers' numbers
of samples, the same on both sides; `tpa_released` is TPA with the values of its released code, 20 steps of
a tenth of the budget, N neighbours and b = 1.84 · 16/255 whatever the budget, which no peer has. Ours draw
per image, theirs per batch where the published codes do: the rates should agree anyway. Standard errors are
over seeds. The row `noise` is what random signs of the same size reach, without any surrogate. Nothing is
timed.
"""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_attacks
import torchattacks
from peers import both, test_images, to_numpy, to_torch
from trained import predictor, trained_variables

from transferjax import attacks

SURROGATE, TARGET = {"blocks": (1, 1), "width": 16}, {"blocks": (1, 1, 1), "width": 16}
STEPS = 10
ATTACKS = ["dim", "vmi_fgsm", "pgn", "tpa", "tpa_released_10", "tpa_released_20", "admix", "ssa"]


def pairs(net, pool, n, eps):
    """name -> (our attack, (images, labels) -> the peer's images)"""
    step = eps / STEPS
    ours = {"eps": eps, "steps": STEPS, "step_size": step}
    torchs = {"eps": eps, "alpha": step, "steps": STEPS, "decay": 1.0}
    plain = eps, step, STEPS

    def own(attack, *more):
        return lambda x, y: attack(net, x, y, *plain, *more)

    dim = torchattacks.DIFGSM(net, **torchs, resize_rate=0.8, diversity_prob=0.7)
    vmi = torchattacks.VMIFGSM(net, **torchs, N=n, beta=1.5)
    return {
        "dim": (attacks.dim(**ours, rate=0.8, prob=0.7), dim),
        "vmi_fgsm": (attacks.vmi_fgsm(**ours, neighbors=n, zeta=1.5), vmi),
        "pgn": (attacks.pgn(**ours, neighbors=n), own(torch_attacks.pgn, n)),
        "tpa": (
            attacks.tpa(**ours, neighbors=n // 2, radius=0.05, beta=eps, random_start=False),
            own(torch_attacks.tpa, n // 2),
        ),
        "tpa_released_10": (attacks.tpa(eps, 20, neighbors=10), None),
        "tpa_released_20": (attacks.tpa(eps, 20, neighbors=20), None),
        "admix": (attacks.admix(**ours, pool=pool), own(torch_attacks.admix)),
        "ssa": (attacks.ssa(**ours, samples=n), own(torch_attacks.ssa, n)),
    }


def noisy(images, eps, seed):
    """Random signs of the budget."""
    signs = np.random.default_rng(seed).choice(np.float32([-1, 1]), np.shape(images))
    return np.clip(images + np.float32(eps) * signs, 0, 1)


def summary(rates):
    """Mean and standard error in percent."""
    spread = np.std(rates, ddof=1) / np.sqrt(len(rates)) if len(rates) > 1 else np.nan
    return round(float(np.mean(rates)), 2), round(float(spread), 2)


def main():
    parser = harness.parser(__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--neighbors", type=int, default=20)
    parser.add_argument("--train-steps", type=int, default=2000)
    parser.add_argument("--attacks", nargs="+", default=ATTACKS, choices=ATTACKS)
    parser.add_argument("--eps", type=float, nargs="+", default=[6], help="in 1/255")
    flags = parser.parse_args()
    predict, net = both(trained_variables(flags.train_steps, **SURROGATE)[0], **SURROGATE)
    target = predictor(trained_variables(flags.train_steps, seed=1, **TARGET)[0], **TARGET)
    images, labels = test_images(flags.images)
    wrong = jax.jit(lambda target, x: (target(x).argmax(-1) != labels).mean())
    fooled = lambda x: 100 * float(wrong(target, x))  # noqa: E731
    rows = harness.kept("transfer", flags, "rows") or {"clean images": {"ours, %": round(fooled(images), 2)}}

    def compare(ours, theirs):
        """Rates of both over the seeds, with their standard errors."""
        attack, rates = jax.jit(ours), {"ours": [], "peer": []}
        for seed in range(flags.seeds):
            x = attack(jax.random.key(seed), predict, jnp.asarray(images), jnp.asarray(labels))
            rates["ours"].append(fooled(x))
            if theirs is not None:
                torch.manual_seed(seed)
                y = theirs(to_torch(images), torch.tensor(labels, dtype=torch.long))
                rates["peer"].append(fooled(to_numpy(y)))
        own, own_error = summary(rates["ours"])
        row = {"ours, %": own, "its standard error": own_error}
        if not rates["peer"]:
            return row
        peer, peer_error = summary(rates["peer"])
        joint = np.hypot(own_error, peer_error)
        apart = round(float((own - peer) / joint), 2) if joint else 0.0
        return row | {
            "peer, %": peer,
            "peer's standard error": peer_error,
            "difference in standard errors": apart,
        }

    for eps in flags.eps:
        noise, spread = summary([fooled(noisy(images, eps / 255, seed)) for seed in range(flags.seeds)])
        rows[f"noise, {eps:g}/255"] = {"ours, %": noise, "its standard error": spread}
        attacks = pairs(net, images, flags.neighbors, eps / 255)
        for name in flags.attacks:
            case = f"{name}, {eps:g}/255"
            if case in rows:
                continue
            rows[case] = compare(*attacks[name])
            print(case, rows[case], flush=True)
            question = "Do the random attacks transfer as often as the peers' do?"
            harness.save("transfer", question, flags, rows=rows)


if __name__ == "__main__":
    main()
