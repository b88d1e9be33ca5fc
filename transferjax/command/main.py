"""Which of your models fall for images that were made on another one, and studies of why.

`transferjax COMMAND --help` says what a command takes.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from transferjax.command.flags import FORMS, UNITS, Parser, of_attacks, of_data, several_models
from transferjax.extras import require_all

TRACEBACK = "TRANSFERJAX_TRACEBACK"
MEASURES = ("accuracy", "gradient_norm", "smoothness", "similarity")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; a user's mistake ends in one line, and no traceback."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not sys.path or sys.path[0] not in ("", os.getcwd()):
        sys.path.insert(0, os.getcwd())  # as with `python -m`: people's own modules and configs lie there
    try:
        if given and given[0] in PASSED:
            return PASSED[given[0]](given[1:]) or 0
        flags = _parser().flags(given)
        return flags.run(flags) or 0
    except (ValueError, OSError, ImportError, TypeError) as error:
        if os.environ.get(TRACEBACK):
            raise
        foreign = error.__cause__ is not None or isinstance(
            error, TypeError
        )  # not a mistake that we looked for
        print(f"error: {error}" + f"\n({TRACEBACK}=1 shows where)" * foreign, file=sys.stderr)
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
    from transferjax.command.evaluate import evaluate
    from transferjax.command.shown import legend, tables
    from transferjax.report import to_text

    results = evaluate(
        flags.surrogate, flags.target or flags.surrogate, flags.data, flags.attack, flags.eps_255,
        norm=flags.norm, seed=flags.seed, batch_size=flags.batch_size, out=flags.out, count=flags.count,
        **_which(flags),
    )  # fmt: skip
    for table in tables(results):
        print(f"\n{table.title}\n\n{to_text(table)}")
    print(f"\n{legend('*')}")
    if flags.out:
        print(f"\nreport: {flags.out}/report.html, rows: {flags.out}/results.csv")


def _attack(flags: argparse.Namespace) -> None:
    require_all("study", "transferjax attack")
    from transferjax.command.answers import answers, introduce
    from transferjax.command.given import identity, read_data, read_models, read_sources, take
    from transferjax.command.questions import read_questions, warn_of_thin
    from transferjax.command.written import attack_to_folder, check_new

    [question] = read_questions(flags.attack, flags.eps_255, flags.norm)
    check_new(flags.out)
    reading = cache(lambda: read_data(flags.data, **_which(flags)))
    [model] = read_models([flags.surrogate], lambda: reading().num_classes)
    images = take(reading(), flags.count)
    warn_of_thin(question, images.image_shape)
    [clean] = introduce([model], images, flags.batch_size).values()
    sources = read_sources(flags.data, reading(), flags.split, flags.count)
    crafted = attack_to_folder(
        question.attack(images.images), model.predict, images, flags.out, seed=flags.seed,
        batch_size=flags.batch_size, sources=sources, surrogate={"label": model.label, **identity(model)},
    )  # fmt: skip
    said = answers(model, images, crafted.images, flags.batch_size)
    wrong = [int((which != images.labels).sum()) for which in (clean, said)]
    print(
        f"{model.label} errs on {wrong[0]} of {len(images)} images, and on {wrong[1]} after {question.label}"
    )
    print(f"{len(images)} images in {flags.out}/images, labels and sources in {flags.out}/labels.csv")


def _measure(flags: argparse.Namespace) -> None:
    require_all("study", "transferjax measure")
    from transferjax.command.answers import introduce
    from transferjax.command.given import read_data, read_models
    from transferjax.command.measure import check_names, measure

    check_names(flags.measure)
    reading = cache(lambda: read_data(flags.data, count=flags.count, **_which(flags)))
    models = read_models(flags.model, lambda: reading().num_classes)
    introduce(models, reading(), flags.batch_size)
    table = measure(models, reading(), flags.measure, flags.batch_size)
    print(table.drop(columns="why").to_string(index=False, na_rep="–"))
    for row in table[table["why"] != ""].itertuples():
        print(f"{row.model}, {row.measure}: {row.why}")
    if flags.out:
        table.to_csv(flags.out, index=False)


def _catalogue(flags: argparse.Namespace) -> None:
    from transferjax.command.questions import described, listed

    print("\n".join(described(name) for name in flags.name) or listed())


def _doctor(flags: argparse.Namespace) -> int:
    from transferjax.command.doctor import doctor

    return doctor()


def _which(flags: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(flags, name) for name in ("split", "size", "crop")}


def _parser() -> Parser:
    parser = Parser(prog="transferjax", description=__doc__, epilog=FORMS)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, function in PASSED.items():
        commands.add_parser(name, help=function.__doc__, add_help=False)

    def add(name: str, run: Callable[..., Any], text: str, epilog: str = "") -> Parser:
        command = commands.add_parser(name, help=text, description=text, epilog=epilog)
        command.set_defaults(run=run, parser=command)
        return command

    evaluate = add(
        "evaluate", _evaluate, "the transfer table of your models on your images, and a page", FORMS + UNITS
    )
    several_models(evaluate)
    of_attacks(evaluate, several=True)
    evaluate.add_argument("--out", help="a directory for results.csv and report.html")
    attack = add("attack", _attack, "adversarial images as PNG files, in folders by class", FORMS + UNITS)
    attack.add_argument("surrogate", metavar="MODEL", help="the model that the attack is made on")
    of_attacks(attack, several=False)
    attack.add_argument("--out", required=True, help="a new directory")
    measure = add("measure", _measure, "accuracy, smoothness and gradient similarity of models", FORMS)
    measure.add_argument("model", nargs="+", metavar="MODEL", help="models; similarity is of each two")
    measure.add_argument(
        "--measure", nargs="+", default=list(MEASURES), metavar="MEASURE",
        help=f"of {', '.join(MEASURES)}; all by default",
    )  # fmt: skip
    measure.add_argument("--out", help="a CSV file")
    for command in (evaluate, attack, measure):
        of_data(command)
    catalogue = add(
        "catalogue", _catalogue, "the attacks, a line each; with names their options and defaults"
    )
    catalogue.add_argument("name", nargs="*", help="attacks")
    add("doctor", _doctor, "what is installed, and whether it works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
