"""Trees on disk: what was saved on one of several devices, or on all, is read where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from transferjax import models, training
from transferjax.training import checkpoint
from transferjax.trees import load_tree, save_tree

SHAPE = (8, 2)
NET = {"width": 2, "blocks": (1, 1), "num_classes": 3}


def placed(tree):
    """Leaves on the second device, sharded over all, replicated on all, in turn."""
    mesh = Mesh(np.array(jax.devices()), ("x",))
    shards, copies = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("x",), ()))
    leaves, structure = jax.tree.flatten(tree)
    moved = []
    for i, leaf in enumerate(leaves):
        fits = leaf.ndim and leaf.shape[0] % len(jax.devices()) == 0
        place = (jax.devices()[1], shards if fits else copies, copies)[i % 3]
        moved.append(jax.device_put(leaf, place))
    return jax.tree.unflatten(structure, moved)


def weights():
    names = ("second", "sharded", "replicated")
    return {name: np.arange(16, dtype=np.float32).reshape(SHAPE) + i for i, name in enumerate(sorted(names))}


def state(of):
    optimizer = training.sgd(0.1)
    params = {"dense": of(weights())}
    memory = {"batch_stats": {"bn": of(weights())}, "metrics": {"loss": jnp.float32(1)}}
    return training.TrainState(jnp.int32(3), params, optimizer.init(params), memory)


def net_variables(of):
    shapes = models.abstract_variables(models.build("cifar_resnet18", **NET))
    return of(jax.tree.map(lambda leaf: np.full(leaf.shape, 0.5, np.float32), shapes))


READER = """
import sys, jax, numpy as np
from transferjax import checkpoint, models
from tests.test_trees import NET, net_variables, state, weights
assert len(jax.devices()) == 1
same = lambda tree: tree
def check(found, expected):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    assert all(np.array_equal(a, b) for a, b in leaves)
for kind in ("ours", "orbax"):
    root = f"{sys.argv[1]}/{kind}"
    found = checkpoint.load_tree(f"{root}/tree")
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found))
    check(found, weights())
    check(models.load("cifar_resnet18", f"{root}/net", **{k: NET[k] for k in ("width", "blocks")}),
          net_variables(same))
    check(checkpoint.load_variables(f"{root}/run"), state(same).variables)
    with checkpoint.open_checkpoints(f"{root}/run") as manager:
        check(checkpoint.restore(manager, state(same))[0], state(same))
print("all read")
"""


def test_read_with_one_device_what_eight_wrote(tmp_path):
    """Our own files, and those of Orbax with its devices in them, as they were written before."""
    ours, orbax = tmp_path / "ours", tmp_path / "orbax"
    save_tree(ours / "tree", placed(weights()))
    models.save(net_variables(placed), ours / "net")
    with checkpoint.open_checkpoints(ours / "run") as manager:
        checkpoint.save(manager, 3, state(placed), [])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(orbax / "tree", placed(weights()))
        checkpointer.save(orbax / "net", net_variables(placed))
    with checkpoint.open_checkpoints(orbax / "run") as manager:
        items = ocp.args.Composite(state=ocp.args.StandardSave(state(placed)), meta=ocp.args.JsonSave([]))
        manager.save(3, args=items)
    assert "sharding" in "".join(path.name for path in (orbax / "tree").iterdir())
    assert "sharding" not in "".join(path.name for path in (ours / "tree").iterdir())
    env = os.environ | {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"}
    command = [sys.executable, "-c", READER, str(tmp_path)]
    done = subprocess.run(command, env=env, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.stdout == "all read\n", done.stderr


def test_containers_and_types_come_back(tmp_path):
    tree = {
        "a": [np.arange(3, dtype=np.uint8), (jnp.ones(2, jnp.bfloat16), {})],
        "n": 3,
        "x": 2.5,
        "none": None,
    }
    save_tree(tmp_path / "tree", tree)
    found = load_tree(tmp_path / "tree")
    assert (found["n"], found["x"], found["none"], found["a"][1][1]) == (3, 2.5, None, {})
    assert [leaf.dtype for leaf in (found["a"][0], found["a"][1][0])] == [np.uint8, jnp.bfloat16]
    with pytest.raises(ValueError, match="already exists"):
        save_tree(tmp_path / "tree", tree)
    save_tree(tmp_path / "tree", {"b": np.zeros(1)}, replace=True)
    assert list(load_tree(tmp_path / "tree")) == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_what_is_no_checkpoint_is_not_replaced(tmp_path):
    """Nor is a checkpoint before the new one is whole."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("as well")
    for name in ("thesis", "file"):
        with pytest.raises(
            ValueError, match=f"{name} is there and is no Orbax checkpoint: it is not replaced"
        ):
            models.save(net_variables(lambda tree: tree), tmp_path / name)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    save_tree(tmp_path / "tree", {"a": np.zeros(1)})
    with pytest.raises(ValueError, match="object"):
        save_tree(tmp_path / "tree", {"b": np.array([object()])}, replace=True)
    assert list(load_tree(tmp_path / "tree")) == ["a"]


def test_numbers_that_numpys_files_do_not_know_are_refused_before(tmp_path):
    variables = jax.tree.map(lambda a: a.astype(jnp.bfloat16), net_variables(lambda tree: tree))
    with pytest.raises(ValueError, match=r"net.npz: .npz knows no bfloat16; use .safetensors"):
        models.save(variables, tmp_path / "net.npz")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was saved in"):
        load_tree(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"test_what_.* is not a complete Orbax checkpoint: .*_METADATA"):
        load_tree(tmp_path)
