"""How long do the nets take to compile? The input gradient, what attacks compile, with our choice of fusions.

    python benchmarks/compiling.py [--nets cifar_resnet18 …] [--rounds 1]

Every call compiles anew, nothing comes from a cache. Beside it the same with jaxlib's default fusions
(`TRANSFERJAX_FUSIONS=default`), and what starting costs: the imports alone.
"""

import subprocess
import sys

import harness
import jax
import jax.numpy as jnp
from harness import Contender

from transferjax import models
from transferjax.losses import cross_entropy
from transferjax.models.weights.torch import abstract_variables

NETS = (
    *("cifar_resnet18", "cifar_resnet50", "cifar_vgg16", "cifar_densenet121", "cifar_inceptionv3"),
    *("resnet50", "vgg16_bn", "densenet121", "mobilenetv2_100", "vit_base_patch16_224"),
)
FUSIONS = {"ours": {}, "default fusions": {"TRANSFERJAX_FUSIONS": "default"}}
IMPORTS = ("jax", "transferjax", "transferjax.attacks", "transferjax.study", "torch")


def gradient(net: str, batch: int):
    module = models.build(net)
    shape = (batch, module.image_size, module.image_size, 3)
    images, labels = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32)

    def run(variables, x, y):
        predict = models.predictor(module, variables)
        return jax.grad(lambda x: cross_entropy(predict(x), y).sum())(x)

    return lambda: jax.jit(lambda *a: run(*a)).lower(abstract_variables(module), images, labels).compile()


def importing(module: str):
    return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)


def main() -> None:
    parser = harness.parser(__doc__, rounds=1)
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
    cases["import"] = [Contender(module, importing, {"module": module}) for module in IMPORTS]
    harness.run("compiling", "How long do the nets take to compile?", cases, flags)


if __name__ == "__main__":
    main()
