"""Names of values that the next process gives them too: for manifests, and whatever must outlive a process.

A name holds all that decides what a value does; what has no such name is refused, never guessed.

    numbers, strings, None            as they are printed
    arrays and keys                   dtype, shape and a digest
    functions and classes             `transferjax.losses.margin`
    what a factory made               `transferjax.attacks.gradients.through.<locals>.rule(transformation=…)`
    partials, methods, dataclasses,   of what they hold
    plain objects, containers

Functions and classes of installed packages go by their name. Others also carry a digest of their code and of
the globals that it reads, since nobody counts their versions: `__main__.loss#5f0c…`.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import jax
import numpy as np

_INSTALLED = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_PRINTED = (type(None), bool, int, float, complex, str, bytes, range, slice, type(...), PurePath, np.dtype)


class UnstableName(ValueError):
    """A value that another process could not tell from others."""


def stable_name(value: object) -> str:
    """The name of a value: equal names mean equal values, in every process.

    Raises:
        UnstableName: lambdas of one's own, traced values, and objects whose content cannot be seen.
    """
    return _name(value, ())


def described(value: object) -> str:
    """The name of a value, or its `repr` where it has none; for printing, not for comparing."""
    try:
        return stable_name(value)
    except UnstableName:
        return repr(value)


def place_of(function: Any) -> str:
    """What errors call a function, or what a factory made: `module.factory`, `module.function`."""
    inner = getattr(function, "func", function)
    name = str(getattr(inner, "__qualname__", type(inner).__qualname__))
    return f"{getattr(inner, '__module__', '')}.{name.partition('.<locals>')[0]}"


def digest(text: str | bytes) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:16]


def _name(value: Any, outer: tuple[int, ...]) -> str:
    if id(value) in outer:  # a function that calls itself
        return "…"
    inside = lambda part: _name(part, (*outer, id(value)))  # noqa: E731
    held = lambda parts: ", ".join(f"{name}={inside(part)}" for name, part in parts)  # noqa: E731
    if isinstance(value, jax.core.Tracer):
        raise UnstableName(f"{value} is traced, and has no value yet")
    if isinstance(value, _PRINTED):
        return repr(value)
    if isinstance(value, enum.Enum):
        return f"{inside(type(value))}.{value.name}"
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _array(value)
    if isinstance(value, ModuleType):
        return value.__name__
    if (name := _imported(value)) is not None:
        return name
    if isinstance(value, type):
        return _class(value)
    if isinstance(value, FunctionType):
        return _function(value, inside)
    if isinstance(value, functools.partial):
        keywords = [f"{name}={inside(part)}" for name, part in sorted(value.keywords.items())]
        return f"partial({', '.join([inside(value.func), *map(inside, value.args), *keywords])})"
    if isinstance(value, MethodType):
        return f"{inside(value.__self__)}.{inside(value.__func__)}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{inside(type(value))}({held(zip(value._fields, value, strict=True))})"
    if isinstance(value, tuple):
        return f"({', '.join(map(inside, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(inside, value))}]"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}({', '.join(sorted(map(inside, value)))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{inside(k)}: {inside(v)}' for k, v in value.items()))}}}"
    if dataclasses.is_dataclass(value):
        fields = (field.name for field in dataclasses.fields(value) if field.compare)
        return f"{inside(type(value))}({held((name, getattr(value, name)) for name in fields)})"
    if hasattr(value, "__wrapped__") and not _is_plain(type(value)):  # such as what `jit` returns
        return f"{type(value).__name__}({inside(value.__wrapped__)})"
    return f"{inside(type(value))}({held(_attributes(value))})"


def _array(value: Any) -> str:
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return f"key({jax.random.key_impl(value)}, {_array(jax.random.key_data(value))})"
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise UnstableName(
            f"an array of objects, {array.dtype} {list(array.shape)}, has no content to compare"
        )
    if array.ndim == 0:
        return f"{array.dtype}({array.item()!r})"
    return f"{array.dtype}{list(array.shape)}:{digest(np.ascontiguousarray(array).tobytes())}"


def _installed(module: str, file: str | None) -> bool:
    """Whether what stands there belongs to a package that has versions, and not to the work in hand."""
    if module.partition(".")[0] == __name__.partition(".")[0]:
        return True
    return module != "__main__" and (file is None or file.startswith(("<frozen", *_INSTALLED)))


def _file(module: str) -> str | None:
    return getattr(sys.modules.get(module), "__file__", None)


def _imported(value: Any) -> str | None:
    """The place where one imports this function or class of an installed package, if that is so."""
    if isinstance(value, np.ufunc):
        return f"numpy.{value.__name__}"
    module, name = (getattr(value, attribute, None) for attribute in ("__module__", "__qualname__"))
    if not isinstance(module, str) or not isinstance(name, str) or not _installed(module, _file(module)):
        return None
    there: Any = sys.modules.get(module)
    for part in name.split("."):
        there = getattr(there, part, None)
    return f"{module}.{name}" if there is value else None


def _class(value: type) -> str:
    name = f"{value.__module__}.{value.__qualname__}"
    if _installed(value.__module__, _file(value.__module__)):
        return name
    functions = [f for f in vars(value).values() if isinstance(f, FunctionType)]
    return f"{name}#{digest(' '.join(sorted(_code(f.__code__) for f in functions)))}"


def _function(value: FunctionType, inside: Any) -> str:
    code, module = value.__code__, str(value.__globals__.get("__name__"))
    name = f"{module}.{code.co_qualname}"
    installed = _installed(module, code.co_filename)
    if not installed and code.co_name == "<lambda>":
        raise UnstableName(f"the lambda in line {code.co_firstlineno} of {code.co_filename} has no name")
    held = dict(_closure(value))
    if "<locals>" in name:
        held |= {f"default {i}": part for i, part in enumerate(value.__defaults__ or ())}
        held |= {f"default {n}": part for n, part in (value.__kwdefaults__ or {}).items()}
    if not installed:
        read = {n: value.__globals__[n] for n in sorted(_globals_read(code)) if n in value.__globals__}
        held = {"code": _code(code)} | held | {f"global {n}": part for n, part in read.items()}
    parts = ", ".join(f"{n}={inside(part)}" for n, part in held.items())
    if not installed:
        return f"{name}#{digest(parts)}"
    return f"{name}({parts})" if parts else name


def _closure(value: FunctionType) -> Iterator[tuple[str, object]]:
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a variable that is set later
            yield name, None


def _inner(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of those inside of it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _inner(constant)


def _globals_read(code: CodeType) -> set[str]:
    return {
        instruction.argval
        for part in _inner(code)
        for instruction in dis.get_instructions(part)
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }


def _code(code: CodeType) -> str:
    """A digest of what a function does; its name, place and comments are not in it."""

    def constants(values: Iterable[Any]) -> list[str]:
        return [
            repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
            for value in values
            if not isinstance(value, CodeType)
        ]

    return digest(repr([(part.co_code, part.co_names, constants(part.co_consts)) for part in _inner(code)]))


def _is_plain(kind: type) -> bool:
    """Whether the class and its bases are written in Python: then objects hold what they show."""
    modules = [base.__module__ for base in kind.__mro__ if base is not object]
    written = all(name == "__main__" or str(_file(name)).endswith(".py") for name in modules)
    return kind.__new__ is object.__new__ and written


def _attributes(value: Any) -> list[tuple[str, object]]:
    """What an object of a plain class holds."""
    kind = type(value)
    if not _is_plain(kind):
        raise UnstableName(f"an object of {kind.__module__}.{kind.__qualname__} may hold what nobody can see")
    slots = {name for base in kind.__mro__ for name in getattr(base, "__slots__", ()) if hasattr(value, name)}
    names = {*getattr(value, "__dict__", ()), *slots}
    return [(name, getattr(value, name)) for name in sorted(names) if not name.startswith("__")]
