"""Installs a wheel into an empty environment and tries it outside of the checkout: `make wheel`.

    python tests/try_wheel.py build/wheel/transferjax-0.1.0-py3-none-any.whl

First alone, as who attacks a net of their own has it; then with the extra `study`, as for the quickstart.
"""

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ALONE = """
import jax, jax.numpy as jnp, transferjax
from transferjax import attacks, metrics, models, predicts
net = models.build("cifar_vgg11", width=2, blocks=(1,))
x, y = jnp.full((2, 8, 8, 3), 0.5), jnp.array([0, 1])
predict = models.predictor(net, net.init(jax.random.key(0), x))
moved = jax.jit(attacks.mi_fgsm(8 / 255, steps=2))(jax.random.key(0), predict, x, y)
assert 0.03 < abs(moved - x).max() < 0.0315, abs(moved - x).max()
assert "site-packages" in transferjax.__file__, transferjax.__file__
for missing, extra in (("report", "report"), ("study", "study")):
    try:
        __import__(f"transferjax.{missing}")
    except ModuleNotFoundError as error:
        assert f"pip install 'transferjax[{extra}]'" in str(error), error
    else:
        raise AssertionError(f"{missing} imports without its extra")
try:
    transferjax.evaluate
except ModuleNotFoundError as error:
    assert "pip install 'transferjax[study]'" in str(error), error
print("alone: imports, attacks, and says what is missing")
"""


def main(wheel: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        venv.create(place / "venv", with_pip=True)
        bin = place / "venv" / "bin"

        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

        def run(*command: str | Path) -> str:
            done = subprocess.run(
                list(map(str, command)), cwd=place, env=clean, capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"{' '.join(map(str, command))[:200]}\n{done.stdout}\n{done.stderr}")
            return done.stdout

        path = Path(wheel).absolute()
        pip = (bin / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, path)
        print(run(bin / "python", "-c", ALONE), end="")
        assert "pip install 'transferjax[study]'" in run(bin / "transferjax", "doctor")
        run(*pip, f"transferjax[study] @ file://{path}")
        plan = run(bin / "transferjax", "quickstart", "--dry_run")
        assert "missing" in plan, plan
        smoke = next(place.glob("venv/share/transferjax/configs/digits.py"))
        print(run(bin / "transferjax", "study", f"--config={smoke}:smoke", "--store=store"), end="")
        assert (place / "store/studies/digits-smoke/report.html").is_file()
        print("with study: a study of the shipped config, outside of the checkout")


if __name__ == "__main__":
    main(sys.argv[1])
