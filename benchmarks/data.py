"""Do the data keep up? Batches of decoded and cropped ImageNette, of CIFAR-10 from memory, and training.

Needs prepared data (`python -m transferjax.data.prepare imagenette/160px-v2`, and `cifar10`).

    python benchmarks/data.py [--batch 128] [--batches 10] [--rounds 5]

A call makes so many batches from a stream that it opens and closes. `training`: a step of a small ResNet at
96 px whose batches are decoded on the same processors, beside a step on a batch that is there already: what
one takes longer is what training waits for data.
"""

import tempfile

import harness
import jax
from harness import Contender

IMAGENETTE = "imagenette/160px-v2"


def crops(size: int, threads: int, batch: int, batches: int):
    from dataclasses import replace

    from transferjax import data

    stream = replace(data.source(IMAGENETTE, "train", size=size), threads=threads)
    return lambda: take(data.train_batches(stream, batch, seed=0), batches)


def take(stream, batches: int) -> None:
    for _ in range(batches):
        jax.block_until_ready(next(stream))
    if hasattr(stream, "close"):
        stream.close()


def memory(batch: int, batches: int):
    from transferjax import data

    dataset = data.load("cifar10", "train")
    dataset.images.sum()  # the pages of the file are in memory from here on
    return lambda: take(data.train_batches(dataset, batch, seed=0), batches)


def decoding(split: str):
    """Opens a split that no cache knows."""
    import os

    from transferjax import data

    def call():
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TRANSFERJAX_CACHE_DIR"] = cache
            data.load("cifar10", split)

    return call


def opening(split: str):
    from transferjax import data

    return lambda: data.load("cifar10", split)


def step(decoded: bool, batch: int):
    """A training step, on a batch of the stream or on the same one again."""
    from configs import common
    from transferjax.study import content, specs
    from transferjax.study.networks import Trainer

    source = common.data(IMAGENETTE, "train", size=96, scale=(0.35, 1.0))
    training = common.training(batch_size=batch, padding=0, flip=False)
    fields = common.network("resnet18", {"width": 24}, data=source, training=training, **common.IMAGENET)
    spec = specs.build(specs.Network, fields, "ST")
    trainer = Trainer(spec, content.load(spec.data))
    stream = trainer.batches(0, 0)
    kept, state = next(stream), [trainer.fresh(trainer.initial(0))]

    def call():
        examples = next(stream) if decoded else kept
        state[0] = jax.block_until_ready(trainer.update(state[0], jax.random.key(0), examples))

    return call


def main() -> None:
    parser = harness.parser(__doc__, rounds=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=10)
    flags = parser.parse_args()
    sizes = {"batch": flags.batch, "batches": flags.batches}
    cases = {
        f"ImageNette at {size} px, {flags.batches} batches of {flags.batch}": [
            Contender(f"{threads} threads", crops, {"size": size, "threads": threads, **sizes})
            for threads in (1, 2, 4)
        ]
        for size in (224, 96)
    }
    cases |= {
        f"CIFAR-10 from memory, {flags.batches} batches of {flags.batch}": [Contender("ours", memory, sizes)],
        "opening CIFAR-10's test images": [
            Contender("decoded", decoding, {"split": "test"}),
            Contender("again, from the cache", opening, {"split": "test"}),
        ],
        "training on ImageNette at 96 px, a step of 64": [
            Contender("on one batch", step, {"decoded": False, "batch": 64}),
            Contender("on the stream", step, {"decoded": True, "batch": 64}),
        ],
    }
    harness.run("data", "Do the data keep up?", cases, flags)


if __name__ == "__main__":
    main()
