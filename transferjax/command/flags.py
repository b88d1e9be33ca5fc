"""Flags of the command: what they may be, how they are read, and what `--help` says of models and units."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

FORMS = """\
a model is one of
  resnet50:weights.pth         a file of weights of a known architecture
  mynets.py:resnet             a function without arguments that returns a net, or the net itself, in a file
  package.module:resnet        likewise in a module
  resnet50:weights.pth:SEEN, mynets.py:resnet:SEEN    and what the net wants to see of an image
  LABEL=MODEL                  any of these, called by that label
A net is one of PyTorch, Flax, Equinox or plain JAX, a service with `as_predict`, or, with what it sees,
(net, transferjax.predicts.Preprocessing(size=…, mean=…, std=…, classes=…)); else it sees images in 0 … 1.
SEEN is a JSON file: preprocessor_config.json of Hugging Face, pretrained_cfg of timm, or the fields of
Preprocessing, {"size": 224, "mean": [0.5], "std": [0.5], "classes": [0, 217]}, where `classes` are the net's
logits for the classes of the data, in their order; or a name: imagenet, 0..255, -1..1, cifar10, …
"""

UNITS = """\
units
  --eps_255 is in 1/255: 8 is 8/255. Options of attacks are in units of images, 0 … 1:
  --attack bim:step_size=2/255,steps=20
"""


class Parser(argparse.ArgumentParser):
    """A parser that loses nothing it was given, takes whole names alone, and errs in one line."""

    def __init__(self, **options: Any) -> None:
        options = {"formatter_class": argparse.RawDescriptionHelpFormatter, **options}
        super().__init__(allow_abbrev=False, **options)
        self.register("action", None, _Given)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n({self.prog} --help says what there is)\n")

    def flags(self, given: Sequence[str]) -> argparse.Namespace:
        """The flags; what is none of them gets the nearest."""
        flags, rest = self.parse_known_args(given)
        if rest:
            self._refuse(rest, flags.parser)
        return flags

    def _refuse(self, rest: Sequence[str], parser: argparse.ArgumentParser) -> NoReturn:
        name = next((text for text in rest if text.startswith("-")), "").partition("=")[0]
        known = [flag for action in parser._actions for flag in action.option_strings]
        near = [flag for flag in known if name and flag.startswith(name)]
        near = near or difflib.get_close_matches(name, known, n=2)
        help_of = {flag: action.help for action in parser._actions for flag in action.option_strings}
        hints = " or ".join(f"{flag} ({help_of[flag]})" for flag in near)
        parser.error(f"unexpected {name or rest[0]}" + (f"; did you mean {hints}?" if near else ""))


class _Given(argparse.Action):
    """A flag of several values has all that it is given, however often; others are given once."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        before = vars(namespace).setdefault("given", {})
        if self.dest in before and self.nargs != "+":
            raise argparse.ArgumentError(self, f"is there twice, {before[self.dest]} and {values}; give one")
        before[self.dest] = [*before.get(self.dest, []), *values] if self.nargs == "+" else values
        setattr(namespace, self.dest, before[self.dest])


def budget(text: str) -> float:
    """A budget in 1/255."""
    try:
        return float(text)
    except ValueError:
        pass
    part, slash, whole = text.partition("/")
    if slash and whole.strip() == "255":
        raise argparse.ArgumentTypeError(f"is in 1/255 already: write {part} for {text}")
    if "," in text:
        raise argparse.ArgumentTypeError(f"takes several numbers with spaces: write {text.replace(',', ' ')}")
    raise argparse.ArgumentTypeError(f"is a number, in 1/255: write 8 for 8/255; got {text!r}")


def several_models(parser: argparse.ArgumentParser) -> None:
    """Flags of surrogates and targets."""
    parser.add_argument(
        "--surrogate", nargs="+", required=True, metavar="MODEL", help="models that attacks are made on"
    )
    parser.add_argument(
        "--target", nargs="+", metavar="MODEL", help="models that are attacked; by default the surrogates"
    )


def of_attacks(parser: argparse.ArgumentParser, several: bool) -> None:
    """Flags of attacks and budgets."""
    many: dict[str, Any] = {"nargs": "+"} if several else {}
    wrap = (lambda value: [value]) if several else (lambda value: value)
    parser.add_argument(
        "--attack", **many, default=wrap("mi_fgsm"), metavar="ATTACK",
        help="[LABEL=]NAME[:OPTION=VALUE,…], of `transferjax catalogue` or file.py:name; default mi_fgsm",
    )  # fmt: skip
    parser.add_argument(
        "--eps_255", **many, type=budget, default=wrap(8.0), metavar="EPS",
        help=f"{'budgets' if several else 'the budget'} in 1/255; default 8, which is 8/255",
    )  # fmt: skip
    parser.add_argument(
        "--norm", choices=("linf", "l2"), default="linf",
        help="of the budget; default linf. With l2, 127.5 is an L2 norm of 0.5",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the attacks; default 0")


def of_data(parser: argparse.ArgumentParser) -> None:
    """Flags of images."""
    add = parser.add_argument
    add("--data", required=True, help="a folder <class>/<image>, or a data set's name: digits, cifar10")
    add("--split", default="", help="a folder inside of a folder; of a data set by name, 'test' by default")
    add("--count", type=int, default=0, help="so many images, classes mixed; all by default")
    add("--size", type=int, help="resize images to it; they stay as they are by default")
    add("--crop", type=float, help="take the middle, this share of the shorter side; needs --size")
    add("--batch_size", type=int, default=32, help="images at once; default 32, changes no number")
