"""What makes XLA's programs fast on CPU, chosen when `transferjax` is imported: fusions, memory that stays.

**Fusions.** jaxlib hands convolutions on CPU to YNNPACK, whose kernels are slower than its own: up to two
times forward, up to five times in gradients w.r.t. weights. YNNPACK's fusions of products and reductions are
fast, and stay. So importing `transferjax` before JAX's back end starts adds to the environment variable
`XLA_FLAGS`

    --xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE

unless the flag is there already, or the variable names a file of flags. `TRANSFERJAX_FUSIONS=default` leaves
everything as it is, also where a parent process had added it. The flag concerns code for CPU alone. XLA ends
a process whose flags it does not know: only versions are told that were tried. Processes that this one starts
inherit the variable: take it out of the environment of one with an older XLA (jaxlib before 0.8, say).

**Memory.** XLA asks for the memory of a program's intermediates each time that it runs, and frees it at the
end. The GNU C library gives pieces above 32 MiB back to the system at once, which has to clear every page
anew: a fifth to a third of a training step of a narrow net with such intermediates (batch 64), next to
nothing of a wide one's. So it is told, by `mallopt`, to keep pieces of up to 2 GiB (32 MiB before its version
2.35): the system has them when the process ends.
`TRANSFERJAX_MALLOC=default` leaves everything as it is, and so does whoever set a variable of the library's
own (`MALLOC_…_`, `GLIBC_TUNABLES`).
"""

import ctypes
import logging
import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from importlib.metadata import PackageNotFoundError, version

FLAG = "--xla_cpu_experimental_ynn_fusion_type"
FUSIONS = f"{FLAG}=LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
SWITCH = "TRANSFERJAX_FUSIONS"
TRIED = ("0.10.", "0.11.", "0.12.")
"""Versions of jaxlib that know the flag."""

MALLOC = "TRANSFERJAX_MALLOC"
KEPT = (2**31 - 1, 2**25)  # bytes: the most that mallopt takes, and that it took before version 2.35
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h

_log = logging.getLogger("transferjax")


def choose(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Adds the flag where that is right and in time; whether the flag is there now.

    Raises:
        ValueError: `TRANSFERJAX_FUSIONS` is neither "default" nor "fast".
    """
    switch = setting(SWITCH, ("fast", "default"), environ)
    flags = environ.get("XLA_FLAGS", "")
    if switch == "default" and FUSIONS in flags.split():  # of a parent process that chose
        flags = environ["XLA_FLAGS"] = " ".join(flag for flag in flags.split() if flag != FUSIONS)
    if flags.strip() and not flags.lstrip().startswith("-") and switch != "default":
        _log.warning(
            f"XLA_FLAGS names a file, {flags!r}, which transferjax leaves alone: add {FUSIONS} to it, "
            f"without which convolutions on CPU are slow ({SWITCH}=default silences this line)."
        )
        return False
    if FLAG.lstrip("-") in flags or switch == "default" or not _knows_the_flag():
        return FLAG.lstrip("-") in flags
    if _started_on_cpu():
        _log.warning(
            "JAX had started before transferjax was imported: convolutions on CPU stay slow in this process. "
            f"Import transferjax first, or set XLA_FLAGS={FUSIONS} ({SWITCH}=default silences this line)."
        )
        return False
    environ["XLA_FLAGS"] = f"{flags} {FUSIONS}".lstrip()
    return True


def keep_memory(environ: Mapping[str, str] = os.environ) -> bool:
    """Lets the C library keep what programs free; whether it does.

    Raises:
        ValueError: `TRANSFERJAX_MALLOC` is neither "default" nor "keep".
    """
    switch = setting(MALLOC, ("keep", "default"), environ)
    chosen = "GLIBC_TUNABLES" in environ or any(re.fullmatch("MALLOC_.*_", name) for name in environ)
    if switch == "default" or chosen or sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # In this order: either ends the library's adapting of both, and trimming alone helps nobody.
    return any(library.mallopt(MMAP_THRESHOLD, size) for size in KEPT) and bool(
        library.mallopt(TRIM_THRESHOLD, KEPT[0])
    )


def setting(name: str, values: tuple[str, ...], environ: Mapping[str, str] = os.environ) -> str:
    """What an environment variable is set to; the first of `values` where it is not.

    Raises:
        ValueError: it is none of them.
    """
    if (value := environ.get(name, values[0])) not in values:
        raise ValueError(f"expected {name} to be one of {', '.join(values)}; got {value!r}")
    return value


def _knows_the_flag() -> bool:
    try:
        return version("jaxlib").startswith(TRIED)
    except PackageNotFoundError:
        return False


def _started_on_cpu() -> bool:
    bridge = sys.modules.get("jax._src.xla_bridge")
    started = getattr(bridge, "backends_are_initialized", lambda: False)()
    return started and sys.modules["jax"].default_backend() == "cpu"
