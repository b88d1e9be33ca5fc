"""Collects LGV snapshots: from each finished surrogate, training goes on at a constant high learning rate.

    python -m experiments.collect --config=configs/digits.py --workdir=runs/quickstart \
        --config.collect.mechanism=SAM

`collect.mechanism` is what collects (SGD is ST; SAM and SAM&JR widen the vicinity), whatever the surrogate
was trained with; it must be a row of the config's `methods`. The snapshots of a surrogate are one stacked
pytree in `snapshots/<surrogate>+<mechanism>`, attacked by `attacks.lgv(…)(key, load_snapshots(…), …)`.

Reference: Gubri et al., "LGV", ECCV 2022, algorithm 1; Zhang et al., S&P 2024, Table 5.
"""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
from tqdm import tqdm

from experiments import build, cli
from experiments.train import Trainer, make_trainer, network_directory
from transferjax import checkpoint
from transferjax.attacks.ensembles import Snapshots
from transferjax.files import write_text
from transferjax.typing import PyTree


def snapshots_directory(config: ConfigDict, root: Path, surrogate: build.Network) -> Path:
    """Where the snapshots from one surrogate are kept."""
    return root / "snapshots" / f"{surrogate.directory}+{config.collect.mechanism.replace('&', '+')}"


def collect(config: ConfigDict, surrogate: build.Network, trainer: Trainer, root: Path) -> PyTree:
    """`epochs · per_epoch` snapshots of the variables, evenly apart, stacked along a new first axis."""
    place, c = trainer.place, config.collect
    variables = checkpoint.load_variables(network_directory(root, surrogate) / "checkpoints")
    state = trainer.init(surrogate.seed)
    memory = state.memory | {"batch_stats": variables["batch_stats"]}
    state = place.put_state(state._replace(params=variables["params"], memory=memory))
    key, batches = jax.random.fold_in(jax.random.key(surrogate.seed), 2), trainer.batches(surrogate.seed, 0)
    total, wanted = c.epochs * trainer.steps_per_epoch, c.epochs * c.per_epoch
    due = {(i + 1) * total // wanted for i in range(wanted)}
    snapshots = []
    for step in tqdm(range(1, total + 1), f"collect {surrogate}", unit=" steps", disable=None):
        [state] = trainer.update([state], [key], [next(batches)])
        if step in due:
            snapshots.append(jax.device_get(place.get_state(state).variables))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *snapshots)


def collect_all(config: ConfigDict, root: Path) -> None:
    """Snapshots from every surrogate that has none yet."""
    c = config.collect
    train_set, test_set = build.source(config), build.dataset(config, "test")
    collecting = config.copy_and_resolve_references()
    with collecting.unlocked():
        collecting.training.update(schedule="constant", learning_rate=c.learning_rate, epochs=c.epochs)
    trainer = None
    for surrogate in build.surrogates(config):
        directory = snapshots_directory(config, root, surrogate)
        if directory.exists():
            continue
        if trainer is None:  # all surrogates are of one architecture
            kind = replace(surrogate, mechanism=c.mechanism)
            trainer = make_trainer(collecting, kind, train_set, test_set)
        write_text(directory.with_name(f"{directory.name}.json"), c.to_json(indent=2) + "\n")
        checkpoint.save_tree(directory, collect(config, surrogate, trainer, root))


def load_snapshots(config: ConfigDict, root: Path, surrogate: build.Network, num_classes: int) -> Snapshots:
    """The snapshots of one surrogate, as attacks take them."""
    stacked = checkpoint.load_tree(snapshots_directory(config, root, surrogate))
    net = build.module(surrogate, num_classes)
    count = len(jax.tree.leaves(stacked)[0])
    return Snapshots.stack(
        [build.predictor(config, net, jax.tree.map(lambda x, i=i: x[i], stacked)) for i in range(count)]
    )


if __name__ == "__main__":
    cli.main(collect_all)
