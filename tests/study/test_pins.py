"""The definition of every row: its defaults, and a tiny result of every attack, part and measure.

A row that changes has another `version` in `transferjax/study/registry.py`; the pins are written anew by

    JAX_PLATFORMS=cpu python -m tests.study.test_pins

Double precision, so that a result is the same on every machine: 1e-5 is far above its rounding.
"""

import inspect
import json
import tempfile
import zlib
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from tests.kinds import ATTENTIVE, SEVERAL, TARGETED
from transferjax import data, models
from transferjax.losses import one_hot
from transferjax.metrics import perceptual
from transferjax.models.vit import ViT
from transferjax.random import per_example
from transferjax.study import binding, networks, registry
from transferjax.study.make import attack_of, make
from transferjax.study.resolve import Context, flat
from transferjax.study.rows import PAIRS
from transferjax.study.specs import OF_IMAGES, Adversarial, Call, Data, Goal, Measure, Network, Training
from transferjax.study.store import Store
from transferjax.training.averaging import averaged_params
from transferjax.typing import Batch

COMMAND = "JAX_PLATFORMS=cpu python -m tests.study.test_pins"
FILE = Path(__file__).with_name("pins.json")
TABLES = {
    "attacks": registry.ATTACKS,
    "parts": registry.PARTS,
    "measures": registry.MEASURES,
    "models": registry.MODELS,
    "augments": registry.AUGMENTS,
    "schedules": registry.SCHEDULES,
    "optimizers": registry.OPTIMIZERS,
    "preprocessing": registry.PREPROCESSING,
    "apply": registry.APPLY,
    "derived": registry.DERIVED,
    "purifiers": registry.PURIFIERS,
    "pieces": registry.PIECES,
}

FEW = {"steps": 5}
ATTACKS = {
    **dict.fromkeys(
        ["bim", "pgd", "mi_fgsm", "ni_fgsm", "pi_fgsm", "gnp", "logit", "po_trip", "logit_margin"], FEW
    ),
    **dict.fromkeys(["emi_fgsm", "ssa", "bsr", "sia", "decowa", "s4st", "mumodig"], FEW | {"samples": 2}),
    **dict.fromkeys(["vmi_fgsm", "vni_fgsm", "gra", "pgn", "tpa", "mef", "fgsra"], FEW | {"neighbors": 2}),
    "l2t": FEW | {"samples": 2, "policy_rate": 1e4},  # so that what is learned shows in a few steps
    "awt": FEW | {"neighbors": 2, "weight_rate": 0.02, "rho": 0.05},
    **dict.fromkeys(["sim", "si_ni_fgsm"], FEW | {"scales": 2}),
    **dict.fromkeys(["svre", "cwa", "ada_ea", "lgv"], FEW),
    "smer": FEW | {"inner_steps": 2},
    "cfm": FEW,
    "everywhere": FEW | {"samples": 2},
    "anda": FEW | {"side": 2},
    "ops": FEW | {"neighbors": 2, "samples": 2},
    "fgsm": {},
    "noise": {},
    "dim": FEW | {"rate": 0.75},
    "tim": FEW | {"kernel_size": 3},
    "admix": FEW | {"samples": 2, "scales": 2},
    "rap": FEW | {"inner_steps": 2},
    **dict.fromkeys(["self_universality", "ilpd"], FEW | {"layer": "maps"}),
    "tgr": FEW,
    "pna": FEW | {"patch": 4},
    "att": FEW | {"layer": "blocks.0", "patch": 4},
    **dict.fromkeys(["fia", "bfa"], FEW | {"layer": "maps", "samples": 2}),
    "apgd": {"steps": 4},
    "apgd_t": {"steps": 3, "target_classes": 2},
    "fab": {"steps": 3},
    "square": {"queries": 4},
    "auto_attack": {"steps": 2, "queries": 2, "target_classes": 2},
}
PARTS = {
    "mixup": {},
    "cutmix": {},
    "cutout": {"size": 3},
    "label_smoothing": {"prob": 0.1},
    "adversarial": {"eps": 0.5, "steps": 1},
    "distilled": {},
    "input_gradient": {"weight": 1.0},
    "jacobian": {"weight": 1.0},
    "score_matching": {"weight": 1.0},
    "sam": {"rho": 0.1},
    "asam": {"rho": 0.5},
    "gsam": {"rho": 0.1, "alpha": 0.1},
    "agsam": {"rho": 0.5, "alpha": 0.1},
    "look_sam": {"rho": 0.1},
    "msam": {"rho": 0.3},
    "esam": {"rho": 0.3},
    "gnp": {"weight": 1.0},
    "er": {"weight": 0.1},
    "swa": {"start": 0.0},
    "ema": {"decay": 0.5},
}
MEASURES = {
    name: {}
    for name in (
        *("smoothness", "similarity", "gradient_norm", "weight_eigenvalue", "weight_trace"),
        *("augmentation_shift", "bound", "transfer_loss", "flatness", "loss_surface", "attention"),
        "distortion",
    )
} | {"lpips": {"net": "squeeze"}}
ATTACKED = ("bound", "transfer_loss", "distortion", "lpips")  # of attacked images, with several numbers
GOLDEN = {"attacks": ATTACKS, "parts": PARTS, "measures": MEASURES}


# Definitions


def said(value):
    """A default as JSON has it; functions by name."""
    if isinstance(value, tuple | list):
        return [said(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, "__qualname__", None) or type(value).__qualname__


def definition(table, name):
    """Version and defaults of a row; `free` options change no result."""
    row = table.row(name)
    known = {n: p.default for n, p in sorted(table.options(name).items()) if n not in row.free}
    defaults = {n: "(required)" if d is inspect.Parameter.empty else said(d) for n, d in known.items()}
    return {"version": row.version, "defaults": defaults}


def changes(place, pinned, now):
    """What must be said of a row that is not what was pinned."""
    if pinned["version"] != now["version"]:
        return [f"{place} is of version {now['version']}, its pins of {pinned['version']}: {COMMAND}"]
    old, new = pinned["defaults"], now["defaults"]
    moved = [
        f"{place}: the option {n!r} is {'new' if n in new else 'gone'}: if results without it mean what they "
        f"did, {COMMAND}; else raise the version in registry.py first"
        for n in sorted(old.keys() ^ new.keys())
    ]
    return moved + [
        f"{place}: the default of {n!r} was {old[n]!r} and is {new[n]!r}, but "
        f"the version is still {now['version']}: raise it in registry.py, then {COMMAND}"
        for n in sorted(old.keys() & new.keys())
        if old[n] != new[n]
    ]


def pins():
    return json.loads(FILE.read_text())


# Tiny results


def waves(name, shape):
    """Weights that follow from their name and shape."""
    count = int(np.prod(shape))
    start = zlib.crc32(name.encode()) % 1000
    wave = np.sin(1.7 * np.arange(start, start + count) ** 1.1).reshape(shape)
    return wave / np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 0.1 * wave


def filled(tree):
    """Variables of those shapes; scales and variances near one."""

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        return waves(name, leaf.shape) + (1.0 if name.endswith(("['scale']", "['var']")) else 0.0)

    return jax.tree_util.tree_map_with_path(fill, tree)


class Smooth(nn.Module):
    """No kinks, so that no gradient is zero: a sign that rounding turns would be another image."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.tanh(6 * nn.Conv(3, (3, 3), name="maps", param_dtype=x.dtype)(x))
        return nn.Dense(4, name="head", param_dtype=x.dtype)(x.reshape(len(x), -1))


def smooth_predict(number):
    shapes = jax.eval_shape(Smooth().init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    weights = jax.tree.map(lambda w: w * (1 + 0.1 * number), filled(shapes))
    return jax.tree_util.Partial(lambda weights, x: 3 * Smooth().apply(weights, x), weights)


def tokens_predict():
    """Of a vision transformer, which has no kinks either."""
    module = ViT(num_classes=4, image_size=8, patch=4, depth=2, width=8, heads=2, hidden=8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    return models.predictor(module, filled(shapes))


IMAGES = 0.5 + 0.4 * waves("images", (2, 8, 8, 1)) * np.sqrt(128)
POOL = np.random.Philox(0).random_raw(3 * 64).astype(np.uint8).reshape(3, 8, 8, 1)


def numbers(*arrays):
    """A few numbers that say what arrays are: the first, and two projections, 7 digits each."""
    flat = np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])
    wave = np.cos(np.arange(len(flat)))
    return [float(f"{x:.7g}") for x in (*flat[:4], flat @ wave / len(flat), flat**2 @ wave / len(flat))]


def attack_result(name):
    """What the engine runs, with a traced budget, in 255ths."""
    targeted = registry.accepts(registry.ATTACKS, Call(name=name), "targeted") and name != "noise"
    goal = Goal(aim="next") if name in TARGETED and targeted else Goal()
    call = binding.bind(registry.ATTACKS, Call(name=name, options=ATTACKS[name]))
    pool = POOL if registry.accepts(registry.ATTACKS, call, "pool") else None

    net = tokens_predict() if name in ATTENTIVE else smooth_predict(0)
    labels = net(jnp.asarray(IMAGES)).argmax(-1)  # right, so that no attack has won before it begins
    classes = (labels + 1) % 4 if goal.targeted else labels

    @jax.jit
    def craft(eps, predict, images):
        keys = per_example(jax.random.key(3), len(images))
        return attack_of(call, goal, eps, "linf", pool)(keys, predict, images, classes)

    predict = (net, smooth_predict(1)) if name in SEVERAL else net
    return numbers(255 * (np.asarray(craft(jnp.float64(0.2), predict, jnp.asarray(IMAGES))) - IMAGES))


TINY = Call(name="cifar_vgg11", options={"width": 2, "blocks": (1,)})


def tiny(parts=(), count=8, epochs=2.0, **more):
    constant = Call(name="constant", options={"peak": 0.1})
    t = Training(epochs=epochs, batch_size=count, schedule=constant, dtype="float64")
    source = Data(name="digits", split="train", count=count)
    more |= {"mean": (0.3,), "std": (0.3,), "parts": parts}
    return binding.bound(Network(model=TINY, data=source, training=t, **more))


def tiny_weights(spec):
    net = networks.module_of(spec, 10)
    return filled(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1))))


def part_result(name):
    """Weights after two steps of one epoch each, averaged where the part averages."""
    teacher = tiny(epochs=3.0) if name == "distilled" else None
    spec = tiny(parts=(Call(name=name, options=PARTS[name]),), teacher=teacher)
    scaled = jax.tree.map(lambda w: w * 1.2, tiny_weights(spec))
    says = models.predictor(networks.module_of(spec, 10), scaled, spec.mean, spec.std) if teacher else None
    step = networks.train_step(spec, 10, steps_per_epoch=1, teacher=says)
    source = data.load("digits", "train").subset(8)
    batch = Batch(jnp.asarray(source.images / 255.0), one_hot(jnp.asarray(source.labels), 10, jnp.float64))
    state, update = step.init(jax.tree.map(jnp.asarray, tiny_weights(spec)), batch), jax.jit(step.update)
    for _ in range(2):
        state = update(state, jax.random.key(1), batch)
    average = averaged_params(state.opt_state)
    return numbers(*jax.tree.leaves(state.params if average is None else average))


def lpips_files(directory):
    """Weights that follow from their names."""
    kernels, widths = perceptual._convolutions("squeeze"), perceptual._widths("squeeze")
    trunk = {f"{name}.weight": waves(name, shape) for name, shape in kernels.items()}
    trunk |= {f"{name}.bias": waves(name, shape[:1]) for name, shape in kernels.items()}
    lines = {f"lin{i}.model.1.weight": abs(waves(str(i), (1, w, 1, 1))) for i, w in enumerate(widths)}
    found = {"backbone": trunk, "linear": lines}
    for name, tensors in found.items():
        whole = {n: np.asarray(a, np.float32) for n, a in tensors.items()}
        (Path(directory) / name).write_bytes(safetensors.numpy.save(whole))
    return {name: str(Path(directory) / name) for name in found}


def measure_result(name, directory):
    """Of networks with the same made-up weights, one of them scaled; of images with a fixed shift."""
    context = Context(Store(directory), batch_size=8)
    erased = (Call(name="cutout", options={"size": 3}),) if name == "augmentation_shift" else ()
    nets = tiny(erased), tiny(epochs=3.0)
    for number, net in enumerate(nets):
        scaled = jax.tree.map(lambda w, s=number: w * (1 + 0.2 * s), tiny_weights(net))
        context.store.put(net, flat(scaled), {})
    files = lpips_files(directory) if name == "lpips" else {}
    call = Call(name=name, options=MEASURES[name] | files)
    size = {"size": 26} if name == "lpips" else {}
    images = Data(name="digits", split="test", options=size, count=8)
    if name in ATTACKED:
        images = binding.bound(
            Adversarial(surrogates=nets[0], attack=Call(name="noise"), eps=0.2, data=images)
        )
        clean = context.dataset(images.data).images
        context.store.put(images, {"images": np.where(clean > 127, clean - 51, clean + 51)}, {})
    of = () if name in OF_IMAGES else nets if name in PAIRS else nets[0]
    spec = binding.bound(Measure(call=call, of=of, data=images))
    ((_, made),) = make(context, [spec])
    return numbers(*made["arrays"].values()) if name in ATTACKED else numbers(made["arrays"]["values"])


def result(table, name):
    with jax.enable_x64(True), tempfile.TemporaryDirectory() as directory:
        if table == "attacks":
            return attack_result(name)
        return part_result(name) if table == "parts" else measure_result(name, directory)


# Tests


@pytest.mark.parametrize("table", TABLES)
def test_every_row_resolves_and_is_what_was_pinned(table):
    found, pinned = TABLES[table], pins()[table]
    assert set(found.rows()) == set(pinned), f"rows without pins, or pins without rows: {COMMAND}"
    lines = [
        line for name in pinned for line in changes(f"{table}.{name}", pinned[name], definition(found, name))
    ]
    assert not lines, "\n".join(lines)
    assert all(callable(found.row(name).factory) for name in pinned)


@pytest.mark.parametrize(("table", "name"), [(t, n) for t, rows in GOLDEN.items() for n in rows])
def test_every_result_is_what_was_pinned(table, name, one_device):
    expected = pins()[table][name]["golden"]
    np.testing.assert_allclose(result(table, name), expected, rtol=1e-5, atol=1e-5, err_msg=COMMAND)


def test_no_attack_is_taken_for_another():
    """Results so short that two definitions gave one would pin neither."""
    found = {name: tuple(row["golden"]) for name, row in pins()["attacks"].items()}
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("table", GOLDEN)
def test_no_row_is_without_a_result(table):
    assert set(GOLDEN[table]) == set(TABLES[table].rows())


def test_a_changed_default_is_named_with_its_old_and_new_value():
    def pgd(eps, steps=12, *, step_size=None):
        pass

    table = registry.Table("attack", lambda: {"pgd": registry.Row("x")}, frozenset(["eps"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.Row, "factory", pgd)
        now = definition(table, "pgd")
    pinned = {"version": 1, "defaults": {"steps": 10, "step_size": None}}
    (line,) = changes("attacks.pgd", pinned, now)
    assert "attacks.pgd: the default of 'steps' was 10 and is 12, but the version is still 1" in line
    assert changes("attacks.pgd", pinned, now | {"version": 2})[0].startswith("attacks.pgd is of version 2")
    assert not changes("attacks.pgd", now, now)
    (added,) = changes("attacks.pgd", now, {**now, "defaults": now["defaults"] | {"decay": 1.0}})
    assert "the option 'decay' is new" in added


def test_a_raised_version_makes_that_rows_results_anew_and_no_others(monkeypatch):
    def keys():
        calls = {
            name: binding.bind(registry.ATTACKS, Call(name=name, options=o)) for name, o in ATTACKS.items()
        }
        return {name: call.key for name, call in calls.items()}

    before, rows = keys(), registry.ATTACKS.rows()
    raised = {**rows, "pgd": registry.Row(rows["pgd"].place, version=2, free=rows["pgd"].free)}
    monkeypatch.setattr(
        registry, "ATTACKS", registry.Table("attack", lambda: raised, registry.ATTACKS.offered)
    )
    after = keys()
    assert [name for name in before if before[name] != after[name]] == ["pgd"]


def write():
    """Pins everything as it is now."""
    tables = []
    for table, rows in TABLES.items():
        lines = []
        for name in sorted(rows.rows()):
            row = definition(rows, name)
            if name in GOLDEN.get(table, ()):
                row["golden"] = result(table, name)
            lines.append(f"  {json.dumps(name)}: {json.dumps(row)}")
        tables.append(f" {json.dumps(table)}: {{\n" + ",\n".join(lines) + "\n }")
    FILE.write_text("{\n" + ",\n".join(tables) + "\n}\n")
    print(f"wrote {FILE}")


if __name__ == "__main__":
    write()
