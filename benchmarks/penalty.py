"""PGN's gradient-norm penalty by finite differences and by the Hessian: time, memory, success.

    python benchmarks/penalty.py [--batch 32] [--images 200] [--neighbors 1 10] [--rounds 5]

The paper's Figure 1 and the table beside it, which approximate `∇L - λ H ∇L / ‖∇L‖` by a second gradient.
Both here are `rules.probe`, around the same neighbours; what is timed is one step. The figures are the
success on the surrogate and on another net after ten steps, both trained here.
"""

import harness
import jax
import jax.numpy as jnp
from harness import Contender, Figured
from trained import predictor, trained_variables

from transferjax import attacks
from transferjax.attacks.rules import average, probe, uniform_noise

EPS, STEPS = 8 / 255, 10
SURROGATE, TARGET = {"blocks": (1, 1), "width": 16}, {"blocks": (1, 1, 1), "width": 16}


def attack(exact: bool, neighbors: int, steps: int):
    """PGN of so many steps, each a tenth of the budget."""
    near = average(uniform_noise(3 * EPS), neighbors)
    rules = (near, probe(-EPS / STEPS, 0.5, 0.5, exact=exact))
    return attacks.mi_fgsm(EPS, steps, step_size=EPS / STEPS, outer_rules=rules)


def penalized(exact: bool, neighbors: int, batch: int, images: int, train_steps: int):
    """One step on a batch, and what ten of them reach on all images."""
    from peers import test_images

    net, other = (
        predictor(trained_variables(train_steps, seed=seed, **options)[0], **options)
        for seed, options in enumerate((SURROGATE, TARGET))
    )
    x, y = map(jnp.asarray, test_images(images))
    one, whole = (jax.jit(attack(exact, neighbors, steps)) for steps in (1, STEPS))
    few = x[:batch], y[:batch]

    def figures():
        made = whole(jax.random.key(0), net, x, y)
        fooled = lambda predict: 100 * float((predict(made).argmax(-1) != y).mean())  # noqa: E731
        return {"white-box success, %": fooled(net), "transfer success, %": fooled(other)}

    return Figured(lambda: jax.block_until_ready(one(jax.random.key(0), net, *few)), figures)


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--neighbors", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--train-steps", type=int, default=2000)
    flags = parser.parse_args()
    for seed, options in enumerate((SURROGATE, TARGET)):  # trained here, in no contender's memory
        trained_variables(flags.train_steps, seed=seed, **options)
    shared = {"batch": flags.batch, "images": flags.images, "train_steps": flags.train_steps}
    cases = {
        f"one step of PGN, N = {neighbors}, batch {flags.batch}": [
            Contender(name, penalized, {"exact": exact, "neighbors": neighbors, **shared})
            for name, exact in (("finite difference", False), ("Hessian", True))
        ]
        for neighbors in flags.neighbors
    }
    harness.run("penalty", "What does PGN's penalty cost without its finite difference?", cases, flags)


if __name__ == "__main__":
    main()
