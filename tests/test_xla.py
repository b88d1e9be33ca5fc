"""What is chosen on import is so in time, visibly, and never against what a user set."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from transferjax import xla

ROOT = Path(__file__).parent.parent
KNOWN = version("jaxlib").startswith(xla.TRIED)
SHOW = "import os; print(os.environ.get('XLA_FLAGS'))"


def python(code: str, **environ: str) -> tuple[str, str]:
    """What a new process prints and says, with no flags but those given."""
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", xla.SWITCH, xla.MALLOC)}
    env = kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | environ
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    return ran.stdout.strip(), ran.stderr.strip()


@pytest.mark.skipif(not KNOWN, reason="this jaxlib was not tried with the flag")
def test_importing_chooses_fusions_and_xla_takes_them():
    convolution = "import jax.numpy as jnp; jnp.ones((2, 2)) @ jnp.ones((2, 2))"
    assert python(f"import transferjax; {convolution}; {SHOW}") == (xla.FUSIONS, "")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XLA_FLAGS": f"{xla.FLAG}="}, f"{xla.FLAG}="),
        ({xla.SWITCH: "default"}, "None"),
        ({xla.SWITCH: "default", "XLA_FLAGS": "--xla_a=1"}, "--xla_a=1"),
        ({xla.SWITCH: "default", "XLA_FLAGS": f"--xla_a=1 {xla.FUSIONS}"}, "--xla_a=1"),  # a child's
    ],
)
def test_what_a_user_set_stays(environ, expected):
    assert python(f"import transferjax; {SHOW}", **environ) == (expected, "")


@pytest.mark.skipif(not KNOWN, reason="this jaxlib was not tried with the flag")
def test_other_flags_stay_beside_it():
    environ = {"XLA_FLAGS": "--xla_a=1"}
    shown, _ = python(f"import transferjax; {SHOW}", **environ)
    assert shown == f"--xla_a=1 {xla.FUSIONS}"


@pytest.mark.skipif(not KNOWN, reason="this jaxlib was not tried with the flag")
def test_one_line_where_the_back_end_had_started():
    code = f"import jax; jax.devices(); import transferjax, transferjax.attacks; {SHOW}"
    shown, said = python(code)
    assert shown == "None"
    assert len(said.splitlines()) == 1
    assert xla.FUSIONS in said
    assert python(code, **{xla.SWITCH: "default"}) == ("None", "")


@pytest.mark.skipif(not KNOWN, reason="this jaxlib was not tried with the flag")
def test_flags_in_a_file_stay_there(tmp_path):
    """You see: "XLA_FLAGS names a file, …, which transferjax leaves alone: add … to it".
    Do: that, or silence the line as it says.
    """
    (tmp_path / "flags").write_text("--xla_force_host_platform_device_count=3\n")
    environ = {"XLA_FLAGS": str(tmp_path / "flags")}
    shown, said = python("import transferjax, jax; print(len(jax.devices()))", **environ)
    assert shown == "3"
    assert f"add {xla.FUSIONS} to it" in said
    assert python("import transferjax", **environ, **{xla.SWITCH: "default"}) == ("", "")


def test_versions_that_were_not_tried_get_no_flag(monkeypatch):
    monkeypatch.setattr(xla, "version", lambda _: "0.99.0")
    monkeypatch.setattr(xla, "_started_on_cpu", lambda: False)
    environ = {}
    assert xla.choose(environ) is False
    assert environ == {}


def test_a_misspelt_switch_is_named():
    with pytest.raises(ValueError, match="TRANSFERJAX_FUSIONS to be one of fast, default; got 'of'"):
        xla.choose({xla.SWITCH: "of"})
    with pytest.raises(ValueError, match="TRANSFERJAX_MALLOC to be one of keep, default; got 'of'"):
        xla.keep_memory({xla.MALLOC: "of"})


@pytest.mark.parametrize(("most", "kept"), [(2**31 - 1, 2**31 - 1), (2**25, 2**25), (0, None)])
def test_pieces_as_large_as_the_library_takes_are_kept(most, kept, monkeypatch):
    """An older library refuses large thresholds; where it takes none, it is left to adapt both."""

    class Library:
        gnu_get_libc_version, now = None, {}

        def mallopt(self, option, size):
            taken = option == xla.TRIM_THRESHOLD or size <= most
            self.now.update({option: size} if taken else {})
            return int(taken)

    library = Library()
    monkeypatch.setattr(xla.ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(sys, "platform", "linux")
    assert xla.keep_memory({}) is (kept is not None)
    both = {xla.MMAP_THRESHOLD: kept, xla.TRIM_THRESHOLD: 2**31 - 1}
    assert library.now == (both if kept else {})


FAULTS = """
import resource, numpy, transferjax
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    numpy.ones(2**22)
before = faults()
for _ in range(10):
    numpy.ones(2**22)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than GNU's")
def test_memory_stays_unless_a_user_says_otherwise():
    """What is freed and asked for again comes without the system's page faults; 32 MiB have up to 8192."""
    pages = 10 * 2**25 // os.sysconf("SC_PAGE_SIZE")
    kept, _ = python(FAULTS)
    assert int(kept) < pages / 20
    given_back = [{xla.MALLOC: "default"}, {"MALLOC_MMAP_THRESHOLD_": "65536"}]
    for environ in given_back:
        assert int(python(FAULTS, **environ)[0]) > int(kept) + 10
