"""What does each mechanism cost? Training steps of every mechanism beside ST's, and PyTorch's.

    python benchmarks/train_step.py [--batch 32 128] [--mechanisms …] [--width 64] [--rounds 5]

All contenders train the same CIFAR ResNet-18 on the same batch. At the first batch size all mechanisms, at
others those that PyTorch has here: ST, SAM and IR with the same arithmetic and plain autograd. The least that
a mechanism can cost, in passes through the net: ST 3 (forward, back to the weights, back to the layers), SAM
6, IR and JR with one projection 6 (forward, back to the images, and back through both), ER 6 (the gradient
and its tangent), SAM&IR 12, LookSAM 3.6 (a step that looks ahead takes 6, the other four 3), AT 2 per attack
step and 3.
"""

import harness
import jax
import jax.numpy as jnp
import numpy as np
from harness import Contender

from configs import common
from configs.methods import method
from transferjax.study import networks, specs
from transferjax.typing import Batch

NAMES = "ST MU_1 CM_1 CO_1 LS_1 IR JR ER SAM ASAM LookSAM MSAM SAM&IR SAM&JR AT"
PEERS = ("ST", "SAM", "IR")  # in PyTorch too
RATE, RHO, WEIGHT = 0.01, 0.1, 0.5


def inputs(batch: int):
    rng = np.random.default_rng(0)
    return rng.random((batch, 32, 32, 3), np.float32), rng.integers(10, size=batch)


def ours(mechanism: str, batch: int, model: str = "cifar_resnet18", **net):
    """One jitted step of a mechanism, with its state."""
    images, labels = inputs(batch)
    examples = Batch(jnp.asarray(images), jax.nn.one_hot(labels, 10))
    source, training = common.data("cifar10", "train"), common.training(padding=0, flip=False)
    options = {"parts": method(mechanism), "data": source, "training": training, **common.CIFAR10}
    fields = common.network(model, net, **options)
    spec = specs.build(specs.Network, fields, mechanism)
    step = networks.train_step(spec, 10, 100)
    init = jax.jit(networks.module_of(spec, 10).init)
    state = [step.init(init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))), examples)]
    update = jax.jit(step.update, donate_argnums=0)

    def run() -> None:
        state[0] = jax.block_until_ready(update(state[0], jax.random.key(0), examples))

    return run


def theirs(mechanism: str, width: int, batch: int, layout: str = "contiguous_format", compiled: bool = False):
    """The same step in PyTorch."""
    import torch
    from peers import Normalized, arranged
    from torch_nets import ResNet

    images, labels = inputs(batch)
    net, x = arranged(Normalized(ResNet((2, 2, 2, 2), False, width)).train(), images, layout, compiled)
    y = torch.nn.functional.one_hot(torch.from_numpy(labels), 10).float()
    optimizer = torch.optim.SGD(net.parameters(), RATE, 0.9, weight_decay=5e-4)
    params = list(net.parameters())

    def loss():
        z = x.detach().requires_grad_(mechanism == "IR")
        value = torch.nn.functional.cross_entropy(net(z), y)
        if mechanism != "IR":
            return value
        (grads,) = torch.autograd.grad(value, z, create_graph=True)
        return value + WEIGHT * grads.norm()

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        if mechanism == "SAM":
            with torch.no_grad():
                norm = torch.stack([p.grad.norm() for p in params]).norm()
                moves = [p.grad * (RHO / norm) for p in params]
                torch._foreach_add_(params, moves)
            optimizer.zero_grad()
            loss().backward()
            with torch.no_grad():
                torch._foreach_sub_(params, moves)
        optimizer.step()

    return run


def main() -> None:
    from peers import SETTINGS

    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--mechanisms", nargs="+", default=NAMES.split())
    parser.add_argument("--width", type=int, default=64)
    flags = parser.parse_args()
    cases = {}
    for size in flags.batch:
        how = {"width": flags.width, "batch": size}
        chosen = [m for m in flags.mechanisms if size == flags.batch[0] or m in PEERS]
        cases[f"batch {size}"] = [
            *(Contender(name, ours, {"mechanism": name, **how}) for name in chosen),
            *(
                Contender(
                    who.replace("PyTorch", f"PyTorch {name}"), theirs, {"mechanism": name, **how, **settings}
                )
                for name in chosen
                if name in PEERS
                for who, settings in SETTINGS.items()
                if name == "ST" or "compiled" not in settings  # the second derivative does not compile
            ),
        ]
    harness.run("train_step", "What does each mechanism cost?", cases, flags)


if __name__ == "__main__":
    main()
