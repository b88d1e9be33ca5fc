"""How fast are the nets? Forward pass, input gradient and training step, ours against PyTorch.

    python benchmarks/models.py [--nets cifar_resnet18 …] [--batch 32 128] [--rounds 5]

The same weights in both, which agree in their logits before anything is timed; evaluation mode but for the
step (SGD with momentum, batch statistics moving). `--batch` is of nets for 32 px, of which all take the first
and `cifar_resnet18` and `cifar_vgg16` the others too; nets for 224 px take 8 and do not train. `--compiled`:
the nets whose PyTorch is tried compiled too. Compiling is the first call; nothing comes from a cache.
"""

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax
from harness import Contender

from transferjax import models
from transferjax.losses import cross_entropy

RATE, MOMENTUM = 0.01, 0.9
SMALL = ("cifar_resnet18", "cifar_vgg16", "cifar_resnet50", "cifar_densenet121", "cifar_inceptionv3")
LARGE = ("resnet50", "vgg16_bn", "vit_base_patch16_224")
JOBS = ("forward", "input gradient", "training step")


def inputs(net: str, batch: int):
    from peers import drawn

    module = models.build(net)
    images = np.random.default_rng(0).random((batch, module.image_size, module.image_size, 3), np.float32)
    return module, drawn(module), images, np.arange(batch) % 10


def ours(net: str, job: str, batch: int):
    module, variables, images, labels = inputs(net, batch)
    predict, x, y = models.predictor(module, variables), jnp.asarray(images), jnp.asarray(labels)
    optimizer = optax.sgd(RATE, MOMENTUM)

    def gradient(predict, x):
        return jax.grad(lambda x: cross_entropy(predict(x), y).sum())(x)

    def train(state, x):
        variables, memory = state

        def loss(params):
            logits, stats = models.train_apply(
                module, {**variables, "params": params}, x, key=jax.random.key(0)
            )
            return cross_entropy(logits, y).mean(), stats

        grads, stats = jax.grad(loss, has_aux=True)(variables["params"])
        updates, memory = optimizer.update(grads, memory)
        params = optax.apply_updates(variables["params"], updates)
        return {**variables, "params": params, "batch_stats": stats}, memory

    if job == "training step":
        step = jax.jit(train, donate_argnums=0)
        state = [jax.tree.map(jnp.asarray, (variables, optimizer.init(variables["params"])))]

        def run():
            state[0] = jax.block_until_ready(step(state[0], x))

        return run
    function = jax.jit({"forward": lambda predict, x: predict(x), "input gradient": gradient}[job])
    predict = jax.device_put(predict)
    return lambda: jax.block_until_ready(function(predict, x))


def theirs(net: str, job: str, batch: int, **how):
    import torch
    from peers import arranged, torch_net

    _, variables, images, labels = inputs(net, batch)
    net, x = arranged(torch_net(net, variables), images, **how)
    y, entropy = torch.from_numpy(labels), torch.nn.functional.cross_entropy
    if job == "training step":
        net.train()
        optimizer = torch.optim.SGD(net.parameters(), RATE, MOMENTUM)

        def train():
            optimizer.zero_grad()
            entropy(net(x), y).backward()
            optimizer.step()

        return train
    net.requires_grad_(False)
    if job == "forward":
        return torch.inference_mode()(lambda: net(x))
    z = x.clone().requires_grad_(True)
    return lambda: torch.autograd.grad(entropy(net(z), y, reduction="sum"), z)[0]


def main() -> None:
    from peers import SETTINGS, agree

    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--nets", nargs="+", default=[*SMALL, *LARGE], choices=[*SMALL, *LARGE])
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=JOBS)
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--compiled", nargs="*", default=[*SMALL, *LARGE])
    flags = parser.parse_args()
    cases = {}
    for net in flags.nets:
        agree(net)
        batches = [8] if net in LARGE else flags.batch if net in SMALL[:2] else flags.batch[:1]
        for batch in batches:
            for job in flags.jobs:
                if net in LARGE and job == "training step":
                    continue
                how = {"net": net, "job": job, "batch": batch}
                cases[f"{net}, {job}, batch {batch}"] = [
                    Contender("ours", ours, how),
                    *(
                        Contender(who, theirs, how | settings)
                        for who, settings in SETTINGS.items()
                        if net in flags.compiled or "compiled" not in settings
                    ),
                ]
    harness.run("models", "How fast are the nets?", cases, flags)


if __name__ == "__main__":
    main()
