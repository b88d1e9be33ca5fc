"""Old imports go on working, and say where to."""

import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import pytest

from transferjax import attacks, moved

ROOT = Path(__file__).parent.parent


HELD = {  # public names of each module before it moved
    "rules": "agsam asam chain er gsam initial_memory look_sam sam",
    "penalties": "input_gradient jacobian",
    "augment": "adversarial crop_flip cutmix cutout label_smoothing mixup",
    "averaging": "averaged_params ema recompute_batch_stats swa",
    "objective": "objective",
    "parallel": "Placement placement replicate shard together unreplicate",
    "checkpoint": "load_variables open_checkpoints restore save",
    "fit": "Diverged Stop fit",
    "adapters": "BudgetExceeded HttpTarget ServiceError as_json from_callable png torch_target",
    "attacks.auto_attack": "apgd apgd_t auto_attack fab one_after_another square",
    "attacks.checks": "check_goal check_logits check_predict check_targets is_targeted robustness_flags",
    "attacks.committees": "cwa lgv svre",
    "attacks.flatness": "gnp gra pgn rap tpa vmi_fgsm vni_fgsm",
    "attacks.gradients": "average enhanced_momentum lookahead mix probe relevance reverse_perturbation "
    "through uniform_noise variance_tuning",
    "attacks.recipes": "admix bim bsr dim emi_fgsm fgsm mi_fgsm nesterov ni_fgsm noise pgd pi_fgsm "
    "si_ni_fgsm sim ssa tim",
    "attacks.stochastic": "Stochastic with_keys",
    "attacks.surrogates": "ghost_dropout ghost_skips linear_backprop skip_gradient",
    "attacks.targeted": "choose_targets logit po_trip poincare self_universality triplet with_features",
    "models.convert": "main",
    "models.files": "fetch load read_tensors save",
    "models.names": "own_tensors",
    "models.pickles": "UnsafeFile read_pickled_tensors",
    "models.torch": "import_state_dict to_torch",
    "metrics.stochastic": "spectral_density spectral_measure top_eigenvalues trace trace_plus_plus",
}


def test_the_table_is_whole():
    assert set(HELD) == set(moved.PLACES)


@pytest.mark.parametrize("old", HELD)
def test_old_modules_have_what_they_had(old):
    sys.modules.pop(f"transferjax.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"transferjax\.{old} moved to transferjax\."):
        module = import_module(f"transferjax.{old}")
    homes = [import_module(f"transferjax.{place}") for place in moved.PLACES[old]]
    for name in HELD[old].split():
        assert any(getattr(module, name) is getattr(home, name, None) for home in homes), name
    with pytest.raises(AttributeError, match="no 'nothing' there"):
        module.nothing  # noqa: B018


def test_a_function_keeps_its_name():
    function = attacks.auto_attack
    sys.modules.pop("transferjax.attacks.auto_attack", None)
    with pytest.warns(DeprecationWarning, match="moved to"):
        from transferjax.attacks.auto_attack import apgd
    assert attacks.auto_attack is function
    assert apgd is attacks.apgd


def test_old_modules_are_attributes_of_their_packages():
    code = (
        "import transferjax, transferjax.attacks\n"
        "from transferjax.attacks import gradients, surrogates\n"
        "from transferjax import adapters\n"
        "found = transferjax.rules.sam, gradients.average, surrogates.skip_gradient\n"
        "print(*(one.__module__ for one in found))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "transferjax.training.rules",
        "transferjax.attacks.rules",
        "transferjax.predicts.surrogates",
    ]


def test_other_names_fail_as_ever():
    import transferjax

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        transferjax.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        transferjax.attacks.nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        import_module("transferjax.nothing")


def test_nothing_inside_uses_an_old_place():
    """Every module of the package, imported with warnings as errors."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "transferjax").rglob("*.py"))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        for module in modules:
            import_module(module)
    text = "".join(path.read_text() for path in (ROOT / "transferjax").rglob("*.py") if path.stem != "moved")
    for old in moved.PLACES:
        assert f"from transferjax.{old} import" not in text
