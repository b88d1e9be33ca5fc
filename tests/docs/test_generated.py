"""Pages that are made from the code: complete, and true."""

import importlib
import re

import pytest

from docs.generate import attacks, catalogues, papers, reference, tried
from transferjax.attacks.cost import Spent
from transferjax.metrics import __all__ as measured
from transferjax.study.registry import ATTACKS


@pytest.mark.parametrize(
    ("name", "gradients"), [("fgsm", 1), ("mi_fgsm", 10), ("vmi_fgsm", 10 * 21), ("noise", 0)]
)
def test_gradients_are_counted(name, gradients):
    clean, adversarial, label, said, found = tried.run(name)
    assert found.gradients == gradients
    assert clean.shape == adversarial.shape == (1, 32, 32, 1)
    assert abs(adversarial - clean).max() == pytest.approx(tried.EPS, abs=1e-6)
    assert said[0] == label
    if name == "mi_fgsm":
        assert said[1] != label


def test_every_attack_has_a_family_a_summary_and_its_options(monkeypatch):
    monkeypatch.setattr(attacks, "made", lambda name: (b"", Spent(10, 10)))
    pages = attacks.pages()
    members = [member for group in attacks.nav()[1:] for several in group.values() for member in several]
    named = {place for member in members for place in member.values()}
    for name in ATTACKS.rows():
        page = pages[f"catalogue/attacks/{name}.md"]
        assert f"catalogue/attacks/{name}.md" in named
        assert f"]({name}.md)" in pages["catalogue/attacks/index.md"]
        assert attacks.said(name)["summary"], name
        assert all(meaning for _, _, meaning in attacks.options(name)), (name, attacks.options(name))
        assert f"attacks.{name}" in page
    assert "torchattacks' MIFGSM" in pages["catalogue/attacks/mi_fgsm.md"]
    assert "ζ = 3" in pages["catalogue/attacks/pgn.md"]
    assert attacks.goldens("tpa") == []


def test_catalogues_hold_everything_and_no_cell_is_empty():
    pages = catalogues.pages()
    for name in ("input_hessian_eigenvalues", "gradient_similarity", "weight_trace"):
        assert name in measured
        assert f"`{name}(" in pages["catalogue/measures.md"]
    assert "SAM&IR" in pages["catalogue/mechanisms.md"]
    assert "| `SAM` | rules: `sam(rho=0.1)` |" in pages["catalogue/mechanisms.md"]
    for place, text in pages.items():
        for line in re.findall(r"^\| `.*\|$", text, re.MULTILINE):
            assert "|  |" not in line.removesuffix("|  |"), (place, line)


def test_the_map_names_every_view_of_every_config():
    text = papers.pages()["papers.md"]
    for name, module in papers.configs():
        assert f"configs/{name}.py" in text
        for view, _ in papers.views_of(name, module):
            assert f"`--views={view}`" in text
    assert "[result](results/cifar10_cpu/README.md)" in text
    assert all(paper.title in text for paper in papers.PAPERS)


def test_the_reference_names_modules_that_exist():
    for package in reference.PACKAGES:
        for name in reference.modules(package):
            assert importlib.import_module(name).__doc__, name
