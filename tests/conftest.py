"""Shared fixtures. Every test sees eight virtual CPU devices; set before JAX starts."""

import json
import os
import zlib
from importlib.metadata import version
from pathlib import Path

# What tests cost is compilation: XLA's cheapest code generation. Flags that are set already win.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
        # later versions have no other emitters, and refuse flags that they do not know
        *(["--xla_cpu_use_fusion_emitters=false"] if version("jax").startswith("0.10.") else []),
        os.environ.get("XLA_FLAGS", ""),
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["MPLBACKEND"] = "Agg"

import jax
import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def x64():
    """Double precision for the length of one test."""
    with jax.enable_x64(True):
        yield


def golden_tensor(name: str, shape: list[int]) -> np.ndarray:
    """A weight of the reference nets: it follows from its name and shape, see `golden/README.md`."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    n = rng.standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        n = 0.5 + rng.random(shape)
    elif name.endswith("running_mean") or (len(shape) < 2 and not name.endswith("weight")):
        n = 0.1 * n
    elif name.endswith(("pos_embed", "cls_token")):
        n = 0.02 * n
    else:
        n = n / np.sqrt(np.prod(shape[1:])) if len(shape) >= 2 else 1 + 0.1 * n
    return n.astype(np.float32)


@pytest.fixture(scope="session")
def golden():
    """`golden(name) -> (state dict, images [2, H, W, 3], reference arrays)` of a reference net."""

    def load(name: str, size: int = 32):
        shapes = json.loads((GOLDEN / f"{name}.state_dict.json").read_text())
        images = np.random.default_rng(zlib.crc32(b"input")).random((2, size, size, 3)).astype(np.float32)
        weights = {key: golden_tensor(key, shape) for key, shape in shapes.items()}
        return weights, images, np.load(GOLDEN / f"{name}.npz")

    return load


@pytest.fixture(autouse=True, scope="module")
def forget_compiled_programs():
    """A module's programs serve no other module; kept, they would fill the memory of a long run."""
    yield
    jax.clear_caches()
