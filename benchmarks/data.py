"""Do the data keep up? Crops per second from ImageNette, batches from memory, and how long training waits.

Needs prepared data (`python -m transferjax.data.prepare imagenette/160px-v2`, and `cifar10`).

    python benchmarks/data.py [--batch 128] [--repeats 4] [--seconds 3] [--steps 40]

`imagenette` decodes, crops, mirrors and batches its 160 px training images: crops per second of wall time,
and the processor time of a crop, which says what a machine that does nothing else would do.
`training_waits_for_data` is the share of the wall time of a training of
`configs/sp2024.py:imagenette_cpu`, on the same processors as the decoding, that passes between asking for a
batch and having it; nothing overlaps with that wait, because each step is waited for.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import jax

from configs import imagenette
from transferjax import data
from transferjax.study import content, specs
from transferjax.study.networks import Trainer
from transferjax.training.augment import crop_flip
from transferjax.typing import Batch

RESULTS = Path(__file__).parent / "results"
IMAGENETTE = "imagenette/160px-v2"


def median(values):
    return statistics.median(values)


def crops_per_second(stream, batch, seconds, seed):
    """(images per second, processor microseconds per image) over `seconds`, after the first batch."""
    batches = data.train_batches(stream, batch, seed=seed)
    next(batches)
    begin, used, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - begin < seconds:
        jax.block_until_ready(next(batches))
        count += batch
    return count / (time.perf_counter() - begin), 1e6 * (time.process_time() - used) / count


def throughput(batch, repeats, seconds):
    found = {}
    for size in (224, 96):
        stream = data.source(IMAGENETTE, "train", size=size)
        for threads in sorted({1, stream.threads, 2 * stream.threads}):
            found[size, threads] = (replace(stream, threads=threads), [])
    for repeat in range(repeats):  # side by side, so that a busy machine slows all alike
        for stream, rates in found.values():
            rates.append(crops_per_second(stream, batch, seconds, repeat))
    return {
        f"{size} px, {threads} threads": {
            "crops_per_second": median([rate for rate, _ in rates]),
            "processor_microseconds_per_crop": median([used for _, used in rates]),
        }
        for (size, threads), (_, rates) in found.items()
    }


def waiting(steps, repeats):
    """[(share of the time spent waiting for data, images per second)] of `steps` training steps each."""
    ((_, _, fields),) = imagenette.get_config("cpu").networks
    spec = specs.build(specs.Network, fields, "ST")
    trainer, batch, key = Trainer(spec, content.load(spec.data)), spec.training.batch_size, jax.random.key(0)
    batches, shares = trainer.batches(0, 0), []
    state = trainer.fresh(trainer.initial(0))
    state = jax.block_until_ready(trainer.update(state, key, next(batches)))
    for _ in range(repeats):
        waited, begin = 0.0, time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            examples = jax.block_until_ready(next(batches))
            waited += time.perf_counter() - asked
            state = jax.block_until_ready(trainer.update(state, key, examples))
        total = time.perf_counter() - begin
        shares.append((waited / total, steps * batch / total))
    return shares


def in_memory(batch, repeats):
    """CIFAR-10: opening it cold and warm, a batch from memory, and crop_flip inside jit."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRANSFERJAX_CACHE_DIR"] = cache
        opened = []
        for _ in range(2):
            begin = time.perf_counter()
            dataset = data.load("cifar10", "train")
            opened.append(time.perf_counter() - begin)
        dataset.images.sum()  # the pages of the file are in memory from here on
        batches, times = data.train_batches(dataset, batch, seed=0), []
        for _ in range(100 * repeats):
            begin = time.perf_counter()
            examples = jax.block_until_ready(next(batches))
            times.append(time.perf_counter() - begin)
    augment = jax.jit(lambda key, batch: crop_flip()(key, batch, None))
    full = Batch(data.to_float(examples.images), jax.nn.one_hot(examples.labels, 10))
    augmented = []
    for step in range(100 * repeats):
        begin = time.perf_counter()
        jax.block_until_ready(augment(jax.random.key(step), full))
        augmented.append(time.perf_counter() - begin)
    return {
        "decode_seconds": opened[0],
        "open_again_seconds": opened[1],
        "batch_milliseconds": 1e3 * median(times),
        "crop_flip_milliseconds": 1e3 * median(augmented),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    shares = waiting(arguments.steps, arguments.repeats)
    result = {
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}, {os.cpu_count()} processors",
        "load_average_before": load,
        "jax": jax.__version__,
        "batch": arguments.batch,
        "imagenette": throughput(arguments.batch, arguments.repeats, arguments.seconds),
        "training_waits_for_data": {
            "share_of_time": median([share for share, _ in shares]),
            "images_per_second": median([rate for _, rate in shares]),
        },
        "cifar10": in_memory(arguments.batch, arguments.repeats),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "data.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
