"""How fast are the attacks on `cifar_resnet18`? Ours against torchattacks, foolbox and plain PyTorch.

    python benchmarks/attacks.py [--batch 32 128] [--attacks pgd …] [--rounds 5]

The same weights in both frameworks, PyTorch's parameters frozen. An attack is a number of passes (forward and
back) that all contenders share, so a few steps, or one step with a few neighbors, stand for it: the case says
of how many passes of the whole. VMI has two steps: its neighbors serve the next one, and of a single step
they would not be computed. Speed does not depend on the weights, so they are random; labels are what the net
says, or APGD would skip images. AutoAttack is represented by its APGD-CE.
"""

from collections.abc import Callable
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import Contender

from transferjax import attacks, models

EPS, STEP = 8 / 255, 2 / 255
MODEL = "cifar_resnet18"
Sizes = dict[str, int]

OURS: dict[str, Callable[[Sizes], Any]] = {
    "PGD": lambda n: attacks.pgd(steps=n["steps"], **_OPTIONS),
    "MI-FGSM": lambda n: attacks.mi_fgsm(steps=n["steps"], **_OPTIONS),
    "DIM": lambda n: attacks.dim(steps=n["steps"], **_OPTIONS),
    "VMI-FGSM": lambda n: attacks.vmi_fgsm(steps=2, neighbors=n["neighbors"], **_OPTIONS),
    "PGN": lambda n: attacks.pgn(steps=1, neighbors=n["neighbors"], **_OPTIONS),
    "TPA": lambda n: attacks.tpa(
        steps=1, neighbors=n["neighbors"], radius=0.05, beta=EPS, random_start=False, **_OPTIONS
    ),
    "APGD-CE": lambda n: attacks.apgd(EPS, n["steps"], until_success=False),
}
_OPTIONS: dict[str, float] = {"eps": EPS, "step_size": STEP}
_THEIRS = {"eps": EPS, "alpha": STEP}
TORCHATTACKS: dict[str, tuple[str, Callable[[Sizes], dict[str, Any]]]] = {
    "PGD": ("PGD", lambda n: {"steps": n["steps"], **_THEIRS}),
    "MI-FGSM": ("MIFGSM", lambda n: {"steps": n["steps"], **_THEIRS}),
    "DIM": ("DIFGSM", lambda n: {"steps": n["steps"], "decay": 1.0, **_THEIRS}),
    "VMI-FGSM": ("VMIFGSM", lambda n: {"steps": 2, "N": n["neighbors"], **_THEIRS}),
    "APGD-CE": ("APGD", lambda n: {"eps": EPS, "steps": n["steps"], "loss": "ce"}),
}
PASSES: dict[str, tuple[Callable[[Sizes], float], float]] = {  # what is timed, of the paper's whole attack
    "PGD": (lambda n: n["steps"], 20),
    "MI-FGSM": (lambda n: n["steps"], 10),
    "DIM": (lambda n: n["steps"], 10),
    "VMI-FGSM": (lambda n: 2 * (1 + n["neighbors"]), 10 * 21),
    "PGN": (lambda n: 2 * n["neighbors"], 10 * 40),
    "TPA": (lambda n: 1 + 2 * n["neighbors"], 10 * 21),
    "APGD-CE": (lambda n: n["steps"] + 1, 101),  # and a forward pass that says who is right
}


def inputs(batch: int):
    from peers import drawn

    images = np.random.default_rng(0).random((batch, 32, 32, 3), np.float32)
    return drawn(models.build(MODEL)), images


def ours(attack: str, batch: int, sizes: Sizes):
    from trained import predictor

    variables, images = inputs(batch)
    predict = predictor(jax.device_put(variables))
    labels = jax.jit(lambda predict, x: predict(x).argmax(-1))(predict, images)
    run, arguments = jax.jit(OURS[attack](sizes)), (predict, jnp.asarray(images), labels)
    return lambda: jax.block_until_ready(run(jax.random.key(0), *arguments))


def theirs(library: str, attack: str, batch: int, sizes: Sizes, **how):
    import torch
    from peers import arranged, torch_model

    variables, images = inputs(batch)
    net, x = arranged(torch_model(variables).requires_grad_(False), images, **how)
    with torch.no_grad():
        y = net(x).argmax(-1)
    if library == "torchattacks":
        import torchattacks

        name, options = TORCHATTACKS[attack]
        run = getattr(torchattacks, name)(net, **options(sizes))
        return lambda: run(x, y)
    if library == "foolbox":
        import foolbox

        model = foolbox.PyTorchModel(net, bounds=(0, 1))
        pgd = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=sizes["steps"])
        return lambda: pgd.run(model, x, y, epsilon=EPS)
    import torch_attacks

    plain = getattr(torch_attacks, attack.lower())
    return lambda: plain(net, x, y, EPS, STEP, 1, sizes["neighbors"])


def main() -> None:
    from peers import SETTINGS, agree

    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--attacks", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument(
        "--compiled", nargs="*", default=list(OURS), help="whose PyTorch is tried compiled too"
    )
    flags = parser.parse_args()
    agree(MODEL)
    cases = {}
    for batch in flags.batch:
        sizes = {"steps": 4, "neighbors": 2} if batch <= 32 else {"steps": 2, "neighbors": 1}
        for attack in flags.attacks:
            libraries = ["torchattacks" if attack in TORCHATTACKS else "plain PyTorch"]
            libraries += ["foolbox"] if attack == "PGD" else []
            how = {"attack": attack, "batch": batch, "sizes": sizes}
            measured, whole = PASSES[attack]
            cases[f"{attack}, batch {batch}, {measured(sizes)} of {whole} passes"] = [
                Contender("ours", ours, how),
                *(
                    Contender(
                        who.replace("PyTorch", library), theirs, {"library": library, **how, **settings}
                    )
                    for library in libraries
                    for who, settings in SETTINGS.items()
                    if attack in flags.compiled or "compiled" not in settings
                ),
            ]
    harness.run("attacks", f"How fast are the attacks on {MODEL}?", cases, flags)


if __name__ == "__main__":
    main()
