"""How long do programs take to compile? Nets' input gradients, input Hessians, a purifier's first weights.

    python benchmarks/compiling.py [--nets cifar_resnet18 …] [--rounds 5]

Input gradients are what attacks compile, with our choice of fusions and with jaxlib's default
(`TRANSFERJAX_FUSIONS=default`). Every call compiles anew, nothing comes from a cache. Beside them what
starting costs: the imports alone.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import harness
import jax
import jax.numpy as jnp
import optax
from harness import Contender

from transferjax import models
from transferjax.defences import NRP, make_purifier_step
from transferjax.losses import cross_entropy
from transferjax.metrics import input_hessian_eigenvalues
from transferjax.models.weights.torch import abstract_variables

NETS = (
    *("cifar_resnet18", "cifar_resnet50", "cifar_vgg16", "cifar_densenet121", "cifar_inceptionv3"),
    *("resnet50", "vgg16_bn", "densenet121", "mobilenetv2_100", "vit_base_patch16_224"),
)
FUSIONS = {"ours": {}, "default fusions": {"TRANSFERJAX_FUSIONS": "default"}}
IMPORTS = ("jax", "transferjax", "transferjax.attacks", "transferjax.study", "torch")


def compiling(function: Callable, net: str, batch: int):
    """A call that compiles `function(predict, images, labels)` of a net."""
    module = models.build(net)
    shape = (batch, module.image_size, module.image_size, 3)
    images, labels = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32)

    def run(variables, x, y):
        return function(models.predictor(module, variables), x, y)

    return lambda: jax.jit(lambda *a: run(*a)).lower(abstract_variables(module), images, labels).compile()


def gradient(net: str, batch: int):
    return compiling(
        lambda predict, x, y: jax.grad(lambda x: cross_entropy(predict(x), y).sum())(x), net, batch
    )


def hessian(method: str, batch: int):
    return compiling(partial(input_hessian_eigenvalues, method=method), "cifar_resnet18", batch)


def purifier(blocks: int):
    step = make_purifier_step(NRP(blocks=blocks), None, optax.identity())  # type: ignore[arg-type]

    def run():
        jax.clear_caches()
        return jax.block_until_ready(step.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))

    return run


def importing(module: str):
    return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--nets", nargs="*", default=list(NETS))
    parser.add_argument("--batch", type=int, default=32)
    flags = parser.parse_args()
    cases = {
        f"{net}, input gradient": [
            Contender(who, gradient, {"net": net, "batch": flags.batch}, environ)
            for who, environ in FUSIONS.items()
        ]
        for net in flags.nets
    }
    cases["cifar_resnet18, input Hessian"] = [
        Contender(method, hessian, {"method": method, "batch": flags.batch})
        for method in ("leading", "exact")
    ]
    cases["NRP's first weights"] = [
        Contender(f"{blocks} blocks", purifier, {"blocks": blocks}) for blocks in (2, 23)
    ]
    cases["import"] = [Contender(module, importing, {"module": module}) for module in IMPORTS]
    harness.run("compiling", "How long do programs take to compile?", cases, flags)


if __name__ == "__main__":
    main()
