"""`transferjax quickstart | study | evaluate | attack | measure | convert | prepare | doctor`.

Models are named as `command.given` says: resnet50:weights.pth, package.module:name, mynets.py:name, LABEL=….
"""

import argparse
import ast
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from transferjax.extras import require_all

TRACEBACK = "TRANSFERJAX_TRACEBACK"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; a user's mistake ends in one line, and no traceback."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not sys.path or sys.path[0] not in ("", os.getcwd()):
        sys.path.insert(0, os.getcwd())  # as with `python -m`: people's own modules and configs lie there
    try:
        if given and given[0] in PASSED:
            return PASSED[given[0]](given[1:]) or 0
        flags = _parser().parse_args(given)
        return flags.run(flags) or 0
    except (ValueError, OSError, ImportError, TypeError) as error:
        if os.environ.get(TRACEBACK):
            raise
        kind = "" if isinstance(error, ValueError | ImportError) else f"{type(error).__name__}: "
        print(f"error: {kind}{error}\n({TRACEBACK}=1 shows where)", file=sys.stderr)
        return 1


def _quickstart(rest: list[str]) -> int | None:
    """A whole study of handwritten digits."""
    require_all("study", "transferjax quickstart")
    from transferjax.study.flags import helped

    if helped(rest):  # before what takes seconds to import
        return 0
    from transferjax.study.cli import shipped_configs

    store = [] if any(flag.startswith("--store") for flag in rest) else ["--store=runs/store"]
    return _study([f"--config={shipped_configs() / 'digits.py'}", *store, *rest])


def _study(rest: list[str]) -> int | None:
    """A study, by the path of its config: --config=FILE --store=DIR."""
    require_all("study", "transferjax study")
    from transferjax.study.flags import helped

    if helped(rest):
        return 0
    from transferjax.study import cli

    cli.main(["transferjax study", *rest])
    return 0


def _convert(rest: list[str]) -> int | None:
    """Weights between PyTorch's files, .safetensors, .npz and Orbax."""
    from transferjax.models.weights import convert

    convert.main(rest)
    return 0


def _prepare(rest: list[str]) -> int | None:
    """Downloads and prepares CIFAR-10 or ImageNette."""
    require_all("data", "transferjax prepare")
    from transferjax.data import prepare

    return prepare.main(rest)


PASSED: dict[str, Callable[[list[str]], int | None]] = {
    "quickstart": _quickstart,
    "study": _study,
    "convert": _convert,
    "prepare": _prepare,
}
"""Commands with flags of their own."""


def _evaluate(flags: argparse.Namespace) -> None:
    require_all("study", "transferjax evaluate")
    from transferjax.command.evaluate import evaluate, tables
    from transferjax.report import to_markdown

    results = evaluate(
        flags.surrogate, flags.target or flags.surrogate, flags.data, dict(map(_attack_flag, flags.attack)),
        flags.eps_255, norm=flags.norm, seed=flags.seed, batch_size=flags.batch_size, out=flags.out,
        **_which(flags),
    )  # fmt: skip
    for table in tables(results):
        print(f"\n{table.title}\n\n{to_markdown(table)}")
    if flags.out:
        print(f"\nreport: {flags.out}/report.html")


def _attack(flags: argparse.Namespace) -> None:
    require_all("study", "transferjax attack")
    from transferjax.command.evaluate import Question
    from transferjax.command.given import read_data, read_models
    from transferjax.command.written import attack_to_folder

    images = read_data(flags.data, **_which(flags))
    [model] = read_models([flags.surrogate], images.num_classes)
    label, (name, options) = _attack_flag(flags.attack)
    question = Question(label, name, tuple(options.items()), flags.eps_255 / 255, flags.norm)
    crafted = attack_to_folder(
        question.attack(), model.predict, images, flags.out, seed=flags.seed, batch_size=flags.batch_size
    )
    print(f"{len(crafted.images)} images in {flags.out}/images, labels in {flags.out}/labels.csv")


def _measure(flags: argparse.Namespace) -> None:
    require_all("study", "transferjax measure")
    from transferjax.command.given import read_data, read_models
    from transferjax.command.measure import measure

    images = read_data(flags.data, **_which(flags))
    models = read_models(flags.model, images.num_classes)
    table = measure(models, images, flags.measure, flags.batch_size)
    print(table.drop(columns="why").to_string(index=False, na_rep="–"))
    for row in table[table["why"] != ""].itertuples():
        print(f"{row.model}, {row.measure}: {row.why}")
    if flags.out:
        table.to_csv(flags.out, index=False)


def _doctor(flags: argparse.Namespace) -> int:
    from transferjax.command.doctor import doctor

    return doctor()


def _which(flags: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(flags, name) for name in ("split", "count", "size", "crop")}


def _attack_flag(text: str) -> tuple[str, tuple[str, dict[str, Any]]]:
    """`(label, (name, options))` of `dim`, `dim:rate=0.7,steps=20` or `mine=dim:rate=0.7`."""
    head, colon, options = text.partition(":")
    label, equals, name = head.partition("=")
    pairs = [pair.partition("=") for pair in options.split(",")] if colon else []
    if wrong := ["".join(pair) for pair in pairs if not pair[1]]:
        raise ValueError(f"attack {text!r}: expected NAME:OPTION=VALUE,…; got {wrong[0]!r}")
    return (label if equals else text), (
        name or label,
        {key.strip(): _value(value) for key, _, value in pairs},
    )


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text  # a name, such as a loss's


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="transferjax", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, function in PASSED.items():
        commands.add_parser(name, help=function.__doc__, add_help=False)
    add = lambda name, run, text: _with_run(commands.add_parser(name, help=text), run)  # noqa: E731
    evaluate = add("evaluate", _evaluate, "the transfer table of your models on your images, and a page")
    evaluate.add_argument("--surrogate", action="append", required=True, help="a model; may be repeated")
    evaluate.add_argument("--target", action="append", help="likewise; the surrogates themselves by default")
    evaluate.add_argument("--attack", nargs="+", default=["mi_fgsm"], help="NAME[:OPTION=VALUE,…]")
    evaluate.add_argument("--eps_255", type=float, nargs="+", default=[8.0], help="budgets, in 1/255")
    evaluate.add_argument("--out", help="a directory for results.csv and report.html")
    attack = add("attack", _attack, "adversarial images as PNG files, in folders by class")
    attack.add_argument("surrogate", help="a model")
    attack.add_argument("--attack", default="mi_fgsm", help="NAME[:OPTION=VALUE,…]")
    attack.add_argument("--eps_255", type=float, default=8.0, help="the budget, in 1/255")
    attack.add_argument("--out", required=True, help="a new directory")
    for command in (evaluate, attack):
        command.add_argument("--norm", choices=("linf", "l2"), default="linf")
        command.add_argument("--seed", type=int, default=0)
    measure = add("measure", _measure, "accuracy, smoothness and gradient similarity of models")
    measure.add_argument("model", nargs="+", help="models")
    measure.add_argument(
        "--measure", nargs="+", default=["accuracy", "gradient_norm", "smoothness", "similarity"]
    )
    measure.add_argument("--out", help="a CSV file")
    for command in (evaluate, attack, measure):
        command.add_argument("--data", required=True, help="a folder <class>/<image>, or a data set's name")
        command.add_argument("--split", default="", help="of the data; 'test' of a data set by name")
        command.add_argument("--count", type=int, default=0, help="so many images; all by default")
        command.add_argument("--size", type=int, help="resize images to it; they stay as they are by default")
        command.add_argument("--crop", type=float, help="take the middle, this share of the shorter side")
        command.add_argument("--batch_size", type=int, default=32)
    add("doctor", _doctor, "what is installed, and whether it works")
    return parser


def _with_run(parser: argparse.ArgumentParser, run: Callable[..., Any]) -> argparse.ArgumentParser:
    parser.set_defaults(run=run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
