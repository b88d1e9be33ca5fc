"""Converts weights between PyTorch's files, `.safetensors`, `.npz` and Orbax, checked against a model.

    transferjax convert resnet50.pth resnet50.safetensors --model=resnet50
    transferjax convert https://…/net.pth net.npz --model=cifar_resnet18 --sha256=…
    transferjax convert resnet50.pth start --model=resnet50 --num_classes=10

The last line replaces the last layer by a fresh one for ten classes and writes an Orbax directory.
"""

import argparse
import ast
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from transferjax.models.weights.formats import fetch, read_tensors, save
from transferjax.models.weights.layouts import renamed
from transferjax.models.zoo import build_for, from_torch, replace_head


def convert(
    source: str,
    target: str,
    model: str,
    num_classes: int | None = None,
    seed: int = 0,
    sha256: str | None = None,
    entry: str | None = None,
    names: Mapping[str, str] | None = None,
    **options: object,
) -> Path:
    """Reads weights, checks them against the model, and writes them; see `transferjax.models.load`.

    Args:
        source: a file, an Orbax directory, or an http(s) address.
        target: what to write; the suffix says how.
        model, options: as in `build`.
        num_classes: replaces the last layer by a fresh one, unless it already has that many classes.
        seed: of the fresh layer.
        sha256: what the file must have.
        entry: of a training checkpoint, as in `read_tensors`.
        names: the net's names for the file's, as in `from_torch`.

    Returns:
        `target`.

    Raises:
        ValueError: unreadable or unfitting weights; a download that is none is removed.
        DownloadError: see `transferjax.data.download`.
    """
    downloaded = source.lower().startswith(("http://", "https://"))
    path = fetch(source, sha256) if downloaded else Path(source)
    if sha256 and not downloaded and path.exists():
        _check_sum(path, sha256)
    try:
        tensors = renamed(read_tensors(path, entry), names or {})
    except ValueError:
        if downloaded and not (entry or names):  # which may be what is wrong
            path.unlink()
        raise
    module = build_for(model, tensors, **options)
    variables = from_torch(module, tensors)
    if num_classes is not None and num_classes != module.num_classes:
        _, variables = replace_head(module, variables, num_classes, jax.random.key(seed))
    return save(variables, target)


def _check_sum(path: Path, sha256: str) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a directory, which has no sha256: leave it out")
    from transferjax.data.download import mismatch  # with all of HTTP

    if wrong := mismatch(path, {"sha256": sha256.lower()}):
        raise ValueError(f"{path} is not the expected file: {wrong}")


def _option(given: str) -> tuple[str, Any]:
    """`width=32` as name and value; what is no Python literal is text."""
    name, equals, value = given.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--option {given}: expected NAME=VALUE, such as width=32 or padding=SAME")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="transferjax convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a file, an Orbax directory, or an http(s) address")
    parser.add_argument("target", help="*.safetensors, *.npz, or a directory for Orbax")
    parser.add_argument("--model", required=True, help="for example resnet50")
    parser.add_argument("--num_classes", type=int, help="replace the last layer by one for so many classes")
    parser.add_argument("--seed", type=int, default=0, help="of the new last layer")
    parser.add_argument("--sha256", help="what the file must have")
    parser.add_argument("--entry", help="of a training checkpoint, such as model_ema")
    parser.add_argument(
        "--names", help="a JSON file {name in the file: name of the net}, of layers or tensors"
    )
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="of the model")
    flags = parser.parse_args(arguments)
    try:
        options = dict(map(_option, flags.option))
        chosen = {name: getattr(flags, name) for name in ("num_classes", "seed", "sha256", "entry")}
        names = json.loads(Path(flags.names).read_text()) if flags.names else None
        target = convert(flags.source, flags.target, flags.model, names=names, **chosen, **options)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
