"""Clusters: groups on Dask's workers, the same bits as in one process, whoever dies or fails."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client

from transferjax import data
from transferjax.files import Unwritable
from transferjax.stopping import Stopped
from transferjax.study import binding, cluster, content, registry, walk, worker
from transferjax.study.cluster import Cluster
from transferjax.study.mistakes import Mistakes
from transferjax.study.resolve import Context
from transferjax.study.run import run
from transferjax.study.specs import Adversarial, Call, Data, Goal, Network, Training, Verdicts
from transferjax.study.store import ARRAYS, Store

ROOT = Path(__file__).parents[2]
TEST = content.pin(Data(name="digits", count=32))
PGD = binding.bind(registry.ATTACKS, Call(name="pgd", options={"steps": 2, "random_start": False}))
RATE = binding.bind(registry.SCHEDULES, Call(name="constant", options={"peak": 0.05}))
SLIM = binding.bind(registry.MODELS, Call(name="cifar_resnet18", options={"width": 4, "blocks": (1,)}))


def net(seed=0, epochs=12.0):
    """Long enough to be killed while it is trained: each epoch leaves a checkpoint."""
    images = content.pin(Data(name="digits", split="train", count=128))
    return Network(
        model=SLIM, data=images, seed=seed, training=Training(epochs=epochs, batch_size=32, schedule=RATE)
    )


def images(surrogate, goal=None, version=1):
    attack = PGD.replace(version=version)
    return Adversarial(surrogates=surrogate, attack=attack, goal=goal or Goal(), eps=0.1, data=TEST)


def demand():
    """Two networks, images of each, and what each says of the other's: eight groups."""
    nets = net(0), net(1)
    crafted = [Verdicts(target=target, images=images(surrogate)) for target in nets for surrogate in nets]
    return [*crafted, *(Verdicts(target=target, images=TEST) for target in nets)]


def checksums(store):
    return {entry.key: entry.provenance["checksum"] for entry in store.entries()}


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """One device and a compilation cache, for the one process and for the workers."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1"
    cache = str(tmp_path_factory.mktemp("cache"))
    ours = {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    return ours | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}


@pytest.fixture(autouse=True)
def no_cache_here(monkeypatch):
    """Some tests do a worker's work in this process, which keeps its programs to itself."""
    monkeypatch.setenv("TRANSFERJAX_COMPILATION_CACHE", "off")


@pytest.fixture(scope="module")
def alone(env, tmp_path_factory):
    """The store of one process."""
    root = tmp_path_factory.mktemp("alone")
    code = f"""if True:
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_cluster import Context, Store, demand, run
        from transferjax.study.run import Local
        store = Store({str(root)!r})
        print(len(run(demand(), store, Local(Context(store))).made))
    """
    said = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert said.stdout == "10\n", said.stderr
    return Store(root)


@pytest.fixture(scope="module")
def scheduler(env):
    """Two workers of this machine; a group is given up when two have died of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        settings = {"distributed.scheduler.allowed-failures": 1}
        with dask.config.set(settings), cluster._quiet(), cluster._processes(2, []) as here:
            yield here.scheduler_address


@pytest.fixture
def start(scheduler, tmp_path):
    """What a demand comes to on the cluster, in a store of the test's own."""
    store = Store(tmp_path / "store")

    def start(specs, say=print, **settings):
        context = Context(store, **settings)
        return run(specs, store, Cluster(context, scheduler=scheduler, say=say), say)

    start.store = store
    return start


def test_two_workers_make_the_bits_of_one_process(alone, start):
    outcome = start(demand())
    assert len(outcome.made) == 10
    assert not outcome.failed
    assert checksums(start.store) == checksums(alone)
    assert not list((start.store.root / "locks").glob("cluster-*"))


def test_two_runs_on_one_store_and_one_cluster(alone, start):
    """You see: nothing: each result is made once.
    Do: nothing.
    """
    outcomes = []
    threads = [threading.Thread(target=lambda: outcomes.append(start(demand()))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, other = outcomes
    assert one.made.keys() | other.made.keys() == checksums(alone).keys()
    assert not one.made.keys() & other.made.keys()
    assert checksums(start.store) == checksums(alone)


def test_a_worker_is_killed(alone, start, scheduler):
    """You see: "worker … is gone: what it was making is made by another".
    Do: nothing: the other worker goes on from the last checkpoint.
    """
    said, wanted = [], net(1)

    def kill():
        scratch = start.store.scratch(wanted.key)
        while not any(path.name.isdigit() for path in scratch.glob("*")):
            time.sleep(0.01)
        with Client(scheduler, set_as_default=False) as client:
            (worker,) = [address for address, tasks in client.processing().items() if tasks]
            os.kill(client.run(os.getpid, workers=[worker])[worker], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    outcome = start([wanted], said.append, checkpoint_epochs=1)
    killer.join()
    assert list(outcome.made) == [wanted.key]
    assert any("is gone" in line for line in said)
    assert checksums(start.store)[wanted.key] == checksums(alone)[wanted.key]
    (entry,) = start.store.entries()
    assert entry.provenance["steps"] < 48  # of 12 epochs of 4 steps


@contextlib.contextmanager
def dask_process(role, *arguments, env):
    """A process of Dask's command line."""
    command = [sys.executable, "-m", f"distributed.cli.dask_{role}", *map(str, arguments), "--no-dashboard"]
    process = subprocess.Popen(command, env=os.environ | env, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def address_in(file):
    """What a scheduler wrote, once it has written all of it."""
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        return json.loads(file.read_text())["address"]


def test_a_worker_is_told_to_end(env, tmp_path):
    """You see: "worker … is gone: what it was making is made by another"; after SIGTERM, or where it is
    retired, it saves its step first.
    Do: nothing: another worker goes on from that step.
    """
    store, wanted, enough = Store(tmp_path / "store"), net(epochs=20_000.0), threading.Event()

    def kept():
        return sorted(int(path.name) for path in store.scratch(wanted.key).glob("*") if path.name.isdigit())

    def ask(where):
        with contextlib.suppress(Stopped):
            run([wanted], store, Cluster(context, scheduler=where, say=lambda line: None))

    context = Context(store, checkpoint_epochs=100, stopped=enough.is_set)
    address, alone = tmp_path / "address", ("--nthreads", "1", "--no-nanny", "--memory-limit", "0")
    with dask_process("scheduler", "--port", "0", "--scheduler-file", address, env=env):
        with dask_process("worker", "--scheduler-file", address, *alone, env=env) as ours:
            where = wait_for(lambda: address_in(address))
            client = threading.Thread(target=ask, args=(where,))
            client.start()
            wait_for(kept)
            ours.send_signal(signal.SIGTERM)
            ours.wait(timeout=60)
        enough.set()
        client.join()
    assert kept()[-1] % 400, kept()  # 100 epochs of 4 steps
    assert not store.has(wanted)


def wait_for(look):
    end = time.monotonic() + 60
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def die_of(text):
    """`work`, but the worker dies of one network."""
    if net(0).key in json.loads(text)["members"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return WORK(text)


WORK = worker.work


def test_workers_die_of_one_result(alone, start, monkeypatch):
    """You see: "KilledWorker: 2 workers died while they made this; out of memory?"; what does not need it is
    made.
    Do: give workers more memory, or lower batch_size or chunk.
    """
    monkeypatch.setattr(cluster, "work", die_of)
    outcome = start(demand())
    assert [(spec, why) for spec, why in outcome.failed.values()] == [
        (net(0), "KilledWorker: 2 workers died while they made this; out of memory?")
    ]
    made = [net(1), images(net(1)), Verdicts(target=net(1), images=images(net(1)))]
    assert outcome.made.keys() == {spec.key for spec in [*made, Verdicts(target=net(1), images=TEST)]}
    assert len(outcome.blocked) == 5


def test_a_worker_cannot_make_a_result(alone, start, tmp_path):
    """You see: its error, in one line, and what is blocked by it; everything else is made.
    Do: what it says, then the same command.
    """
    file = tmp_path / "goals.npy"
    np.save(file, np.zeros(32, np.int32))
    goal = content.pin(Goal(aim="file", file=str(file)))
    np.save(file, np.ones(32, np.int32))
    wrong = images(net(0), goal)
    outcome = start([*demand(), Verdicts(target=net(0), images=wrong)])
    ((spec, why),) = outcome.failed.values()
    assert spec == wrong
    assert why.startswith(f"ValueError: {file} is another file than the study named")
    assert list(outcome.blocked.values()) == [Verdicts(target=net(0), images=wrong)]
    assert outcome.made.keys() == checksums(alone).keys()


def test_a_worker_reads_a_damaged_result(alone, start):
    """You see: "… is damaged (…): it is made again".
    Do: nothing.
    """
    start(demand())
    path = start.store.path(images(net(0)))
    content = bytearray((path / ARRAYS).read_bytes())
    content[-1] ^= 1
    (path / ARRAYS).write_bytes(content)
    asked = Verdicts(target=net(0), images=images(net(0)))
    start.store.discard("Verdicts", asked.key)
    said = []
    outcome = start(demand(), said.append)
    assert outcome.damaged == [images(net(0)).key]
    assert any("is damaged" in line and "made again" in line for line in said)
    assert outcome.made.keys() == {asked.key, images(net(0)).key}
    assert checksums(start.store) == checksums(alone)


def test_a_worker_has_another_version_of_the_code(start):
    """You see: "runs other code: attack 'pgd' is version 1 there, and 2 here".
    Do: install one version everywhere, and start the workers again.
    """
    newer = images(net(0), version=2)
    start.store.put(net(0), {"x": np.zeros(1)}, {})
    outcome = start([newer])
    ((_, why),) = outcome.failed.values()
    assert "runs other code: attack 'pgd' is version 1 there, and 2 here" in why
    assert "\n" not in why


def test_a_worker_looks_at_data_anew_in_every_run(tmp_path):
    """It may outlive a run, and the data at a path."""
    first, second = (data.load("digits", "test").subset(count) for count in (8, 16))
    data.save(first, tmp_path / "images", "test")
    spec = Data(name=str(tmp_path / "images"))
    context = worker._context(str(tmp_path), "one run", 32, 1, 1 << 20)
    assert len(context.dataset(content.pin(spec))) == 8
    shutil.rmtree(tmp_path / "images")
    data.save(second, tmp_path / "images", "test")
    assert worker._context(str(tmp_path), "one run", 32, 1, 1 << 20) is context
    context = worker._context(str(tmp_path), "another", 32, 1, 1 << 20)
    assert len(context.dataset(content.pin(spec))) == 16


def test_the_scheduler_dies(env, tmp_path):
    """You see: "the scheduler at tcp://… is gone; what is finished is kept: the same command goes on from
    there".
    Do: start it again, and then the same command.
    """
    store, file, said = Store(tmp_path / "store"), tmp_path / "address", []
    with dask_process("scheduler", "--port", "0", "--scheduler-file", file, env=env) as scheduler:
        address = wait_for(lambda: address_in(file))

        def say(line):  # there are no workers: the run waits
            said.append(line)
            scheduler.kill()

        with pytest.raises(OSError, match="is gone; what is finished is kept"):
            run([net(0)], store, Cluster(Context(store), scheduler=address, say=say))
    assert said[0].startswith(f"waits for workers at {address}")


def task(store, members, **changes):
    """What a worker is sent."""
    marker = store.root.absolute() / "locks" / "cluster-0"
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()
    group = cluster.Group("group", members)
    return json.dumps(json.loads(Cluster(Context(store), 2)._task(group, set(), marker)) | changes)


def failure(text):
    ((_, why),) = worker.work(text)["failed"].items()
    return why.partition(": ")[2]


def test_a_worker_does_not_see_the_store(tmp_path, monkeypatch):
    """You see: "does not see the store …: do all workers, and this process, see the store through one shared
    disk?".
    Do: what it says.
    """
    monkeypatch.setattr(worker, "ANSWER", 0.0)
    monkeypatch.setattr(worker, "PATIENCE", 0.0)
    store, wanted = Store(tmp_path / "here"), images(net(0))
    why = failure(task(store, [wanted], root=str(tmp_path / "elsewhere")))
    assert why == f"OSError: does not see the store {tmp_path / 'elsewhere'}: {worker.SHARED}"
    assert not (tmp_path / "elsewhere").exists()
    assert "does not see" in failure(task(store, [wanted]))
    assert net(0).key in failure(task(store, [wanted]))
    said = worker.work(task(store, [wanted], absent=[net(0).key]))  # failed before: nobody waits for it
    assert said["blocked"] == [wanted.key]


def test_the_disk_of_a_worker_is_full(tmp_path, monkeypatch):
    """You see: "worker on …: Unwritable: cannot write to … (No space left on device)", and the run ends.
    Do: make room there, then the same command continues.
    """

    def full(context, group):
        raise Unwritable("no room there")

    monkeypatch.setattr(worker, "make_group", full)
    store = Store(tmp_path)
    answer = worker.work(task(store, [net(0), net(1)]))
    assert not answer["failed"]
    with pytest.raises(Unwritable, match=r"worker on .*: no room there"):
        Cluster(Context(store), 2)._done(cluster.Group("group", [net(0), net(1)]), answer, "one run")


def test_an_error_of_the_shared_disk_is_not_said_of_the_scheduler(start, monkeypatch):
    """You see: what the disk says.
    Do: what helps it: the scheduler is there.
    """

    def stale(self, group, absent, marker):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Cluster, "_task", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        start([net(0)])


def test_a_spec_that_means_something_else_there_is_refused(tmp_path):
    text = json.loads(task(Store(tmp_path), [net(0)]))
    text["members"] = {net(1).key: text["members"][net(0).key]}
    assert "runs other code" in failure(json.dumps(text))


def test_relative_paths_travel_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("goals.npy", np.zeros(32, np.int32))
    spec = images(net(0), content.pin(Goal(aim="file", file="goals.npy")))
    (said,) = json.loads(task(Store("store"), [spec]))["members"].values()
    sent = walk.from_json(said)
    assert sent.goal.file == str(tmp_path / "goals.npy")
    assert sent.data.name == "digits"
    assert sent.key == spec.key
    assert json.loads(task(Store("store"), [spec]))["root"] == str(tmp_path / "store")


def test_no_scheduler_answers(tmp_path, monkeypatch):
    """You see: "no Dask scheduler answers at tcp://… (…)", within seconds.
    Do: look at the address, or start one.
    """
    monkeypatch.setattr(cluster, "ANSWER", 0.5)
    begin, store = time.monotonic(), Store(tmp_path / "store")
    with pytest.raises(Mistakes, match=r"no Dask scheduler answers at tcp://127.0.0.1:9") as error:
        run([net(0)], store, Cluster(Context(store), scheduler="tcp://127.0.0.1:9"))
    assert time.monotonic() - begin < 5
    assert len(error.value.lines) == 1
    assert not store.root.exists()


def test_dask_is_not_installed(tmp_path, monkeypatch):
    """You see: "--workers and --scheduler need Dask: pip install 'transferjax[cluster]'".
    Do: that.
    """
    context = Context(Store(tmp_path))
    with pytest.raises(Mistakes, match="expected tcp://host:port"):
        Cluster(context, scheduler="localhost")
    with pytest.raises(Mistakes, match="expected workers or a scheduler"):
        Cluster(context)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Mistakes, match=r"pip install 'transferjax\[cluster\]'"):
        Cluster(context, workers=2)


def test_nothing_to_make_starts_nothing(tmp_path):
    assert list(Cluster(Context(Store(tmp_path / "store")), workers=2)([])) == []
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("installed", "environ", "expected"),
    [
        (
            "jax_cuda12_plugin",
            {"CUDA_VISIBLE_DEVICES": "3,GPU-5"},
            [{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "GPU-5"}],
        ),
        ("jax_cuda13_plugin", {}, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        ("jax_cuda12_plugin", {"CUDA_VISIBLE_DEVICES": ""}, []),
        ("jax_cuda12_plugin", {"JAX_PLATFORMS": "cpu"}, []),
        ("nothing", {}, []),
    ],
)
def test_more_workers_than_accelerators(installed, environ, expected, monkeypatch, tmp_path):
    """You see: "--workers=3: this machine has 2 accelerators, for one worker each".
    Do: lower --workers.
    """
    for name in ("JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in (installed, "distributed") or None)
    monkeypatch.setattr(cluster, "DEVICES", tmp_path)
    assert cluster.accelerators() == expected
    if expected:
        with pytest.raises(Mistakes, match="--workers=3: this machine has 2 accelerators"):
            Cluster(Context(Store(tmp_path)), workers=3)


def test_workers_leave_control_c_to_the_process_that_a_user_sees():
    from distributed import Client

    with cluster._processes(1, []) as processes, Client(processes) as client:
        asked = client.run(lambda: __import__("signal").getsignal(2).name)
    assert list(asked.values()) == ["SIG_IGN"]


def test_a_plan_takes_no_accelerator(env, tmp_path):
    """Where JAX is told to use one that is not there, planning works all the same."""
    command = [sys.executable, "-m", "experiments.study", "--config=configs/digits.py:smoke", "--dry_run"]
    command.append(f"--store={tmp_path / 'store'}")
    planned = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | env | {"JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert planned.returncode == 0, planned.stderr
    assert "Network" in planned.stdout
