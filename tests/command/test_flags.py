"""What the command refuses, each in one line, and what its help says."""

import re

import pytest

from transferjax.command.main import main
from transferjax.command.questions import read_questions


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--surrogate resnet51:w.pth --data imgs", "model 'resnet51:w.pth'|No module named 'resnet51'"),
        ("--surrogate resnet50 --data imgs", "model 'resnet50': which weights"),
        ("--surrogate resnet50:no.pth --data imgs", "there is no file 'no.pth'"),
        ("--surrogate mynets.py:steap --data imgs", "mynets.py has no 'steap'; did you mean steep"),
        ("--surrogate mynets:steep --data imgs --attack mi_fgms", "unknown attack 'mi_fgms'.*mi_fgsm"),
        ("--surrogate mynets:steep --data imgs --attack difgsm", "unknown attack 'difgsm'; that is dim here"),
        (
            "--surrogate mynets:steep --data imgs --attack logit",
            "'logit' runs towards targets, and a command",
        ),
        ("--surrogate mynets:steep --data imgs --attack bim:targeted=True", "runs towards targets"),
        ("--surrogate mynets:steep --data imgs --attack bim:stepz=2", "attack 'bim:stepz=2'.*stepz"),
        (
            "--surrogate mynets:steep --data imgs --attack bim:steps=five",
            "'bim:steps=five': steps must be",
        ),
        ("--surrogate mynets:steep --data imgs --attack bim:step=5", "did you mean steps?.*step_size"),
        ("--surrogate mynets:steep --data imgs --attack a=bim a=fgsm", "two attacks are called 'a'"),
        ("--surrogate mynets:steep --data imgs --eps_255 0.03", "eps_255=0.03 is in 1/255.*write 7.65"),
        ("--surrogate mynets:steep --data imgs --eps_255 -4", "eps_255 must not be negative; got -4"),
        ("--surrogate mynets:steep --data imgs --eps_255 300", "more than all 255 levels"),
        ("--surrogate mynets:state --data imgs", "mynets:state: that is a state dict.*ARCHITECTURE:FILE"),
        ("--surrogate net.pth --data imgs", "expected ARCHITECTURE:FILE, file.py:name or"),
        ("--surrogate mynets.py:boom --data imgs", "mynets.py:boom: RuntimeError: no weights"),
        (
            "--surrogate mynets.py:loads --data imgs",
            "takes an argument 'path'.*without arguments.* wanted",
        ),
        (
            "--surrogate other/mynets.py:steep mynets.py:flat --data imgs",
            "another module is called 'mynets'",
        ),
        ("--surrogate mynets:steep:imgs/no.json --data imgs", "there is no file 'imgs/no.json'"),
        ("--surrogate mynets:seen:ImageNet --data imgs", "what the net sees is said twice"),
        ("--surrogate mynets:steep --data imgs --attack bim:steps", "expected NAME:OPTION=VALUE"),
        (
            "--surrogate mynets:steep --surrogate mynets:steep --data imgs",
            "two models are called 'steep'",
        ),
        ("--surrogate mynets:steep --data imgz", "unknown data set 'imgz'"),
    ],
)
def test_mistakes_are_one_line(here, capsys, flags, message):
    assert main(["evaluate", *flags.split()]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--eps_255 8/255", "argument --eps_255: is in 1/255 already: write 8 for 8/255"),
        ("--eps_255 4,8", "argument --eps_255: takes several numbers with spaces: write 4 8"),
        ("--eps 8", "unexpected --eps; did you mean --eps_255 (budgets in 1/255"),
        ("--norm l2 --norm linf", "argument --norm: is there twice, l2 and linf; give one"),
    ],
)
def test_flags_that_are_wrong_are_one_line(here, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "--surrogate", "mynets:steep", "--data", "imgs", *flags.split()])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 2


def test_names_are_checked_before_images_are_read(here, capsys):
    for flags in ("--surrogate mynets:steep --attack mi_fgms", "--surrogate mynets:steap"):
        assert main(["evaluate", "--data=imgs", *flags.split()]) == 1
    assert "imgs" not in capsys.readouterr().out


def test_options_may_be_fractions():
    [question] = read_questions("a=mi_fgsm:step_size=2/255,steps=3,loss=logit", 8, "linf")
    assert question.options == (("step_size", 2 / 255), ("steps", 3), ("loss", "logit"))
    assert (question.label, question.name) == ("a", "mi_fgsm")


def test_help_says_how_models_attacks_and_measures_are_written(capsys):
    words = {"evaluate": "mynets.py:resnet:SEEN|1/255; default 8|transferjax catalogue|step_size=2/255",
             "measure": "of accuracy, gradient_norm, smoothness, similarity|LABEL=MODEL",
             "attack": "mynets.py:resnet|default mi_fgsm"}  # fmt: skip
    for command, wanted in words.items():
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        out = " ".join(capsys.readouterr().out.split())
        assert [word for word in wanted.split("|") if word not in out] == []
    assert main(["catalogue"]) == 0
    assert "\nmi_fgsm  " in capsys.readouterr().out
    assert main(["catalogue", "bim"]) == 0
    assert "steps: gradient steps; 10 by default" in capsys.readouterr().out


def test_convert_and_prepare_have_their_own_flags(capsys):
    for command, word in (("convert", "--model"), ("prepare", "--archive")):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        out = capsys.readouterr().out
        assert word in out
        assert f"transferjax {command}" in out
