"""Faults that really happen. Each costs at most the cells it hits: what is recorded stays, the
others run, and the same command, once the fault is mended, does the rest."""

import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hooked import after_intervals
from wandb_server import wandb_server

from bench.store.results import load_runs
from bench.store.wandb_runs import open_run
from data_prep.torchvision_images import MNIST

pytestmark = pytest.mark.stress

SMALL = ["model=cp", "classes=[0,1]", "ranks=[1,2,3]", "seeds=[0]", "trainer.max_epochs=20"]
SMALL += ["variants=[original,random_images]", "trainer.log_every_n_epochs=5"]


def records(folder):
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/*/record.json")}


def numbers(folder):
    """The metrics and weights of all runs, by what the cells ask for."""
    result = {}
    for path in folder.glob("*/*/record.json"):
        record = json.loads(path.read_bytes())
        config = record["config"]
        cell = (config["variant"], config["data"]["target_class"], config["model"]["rank"])
        result[cell] = (record["metrics"], (path.parent / "model.pt").read_bytes())
    return result


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The numbers of the benchmark without any fault."""
    folder = tmp_path_factory.mktemp("sound")
    command = [sys.executable, "-m", "bench.cli", "bench", "tensor_rank", *SMALL]
    subprocess.run([*command, f"runs_dir={folder}"], check=True, capture_output=True)
    return numbers(folder)


def in_mount_namespace(script, folder):
    """Run a shell script that may mount file systems, which vanish with it."""
    bench = f'"{sys.executable}" -m bench.cli bench tensor_rank {" ".join(SMALL)} runs_dir=runs'
    script = f"set -u; bench='{bench}'; mkdir runs; {script}"
    command = ["unshare", "--map-root-user", "--mount", "bash", "-c", script]
    path = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=300)


def test_a_full_disk(tmp_path, sound):
    script = """
    mount -t tmpfs -o size=64m tmpfs runs
    eval "$bench variants=[original]" > out0 2> error0; echo $? > code0; cp -r runs runs0
    mount -o remount,size=$(($(df --output=used -k runs | tail -1) + 120))k runs
    eval "$bench" > out1 2> error1; echo $? > code1; cp -r runs runs1
    mount -o remount,size=64m runs
    eval "$bench" > out2 2> error2; echo $? > code2; cp -r runs runs2
    """
    in_mount_namespace(script, tmp_path)
    codes = [(tmp_path / f"code{i}").read_text().strip() for i in range(3)]
    assert codes == ["0", "1", "0"]
    error = (tmp_path / "error1").read_text()
    assert "No space left on device" in error
    assert "Traceback" not in error
    before = records(tmp_path / "runs0")
    assert len(before) == 6
    for i in (1, 2):
        assert before.items() <= records(tmp_path / f"runs{i}").items()
    assert numbers(tmp_path / "runs2") == sound


def test_a_folder_that_becomes_read_only(tmp_path):
    script = """
    mount -t tmpfs -o size=64m tmpfs runs
    eval "$bench variants=[original]" > out0 2> error0; echo $? > code0; cp -r runs runs0
    mount -o remount,ro runs
    eval "$bench" > out1 2> error1; echo $? > code1; cp -r runs runs1
    """
    in_mount_namespace(script, tmp_path)
    assert [(tmp_path / f"code{i}").read_text().strip() for i in range(2)] == ["0", "2"]
    (error,) = (tmp_path / "error1").read_text().splitlines()
    assert "runs_dir=runs/tensor_rank: expected" in error
    assert "Read-only file system" in error
    assert records(tmp_path / "runs0") == records(tmp_path / "runs1")


def write_mnist(root):
    """Write four small IDX files; return their SHA-256 by name."""
    import hashlib

    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(0)
    for stem, count in (("train", 200), ("t10k", 50)):
        images = torch.randint(256, (count, 28, 28), generator=draw, dtype=torch.uint8)
        labels = torch.arange(count, dtype=torch.uint8) % 10
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4) for n in values.shape)
            (folder / f"{stem}-{name}-ubyte").write_bytes(head + values.numpy().tobytes())
    return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in MNIST.sha256}


def test_a_data_file_cut_short_under_our_feet(rankbench, tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "sha256", write_mnist(tmp_path / "data"))
    monkeypatch.setattr(MNIST, "counts", {"train": 200, "test": 50})
    path = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    overrides = [*SMALL, "data=mnist,digits", "data.batch_size=200", f"runs_dir={tmp_path / 'r'}"]
    overrides += [f"data.root={tmp_path / 'data'}"]
    from bench.commands import training
    from bench.execute import launch

    def cut_and_launch(work, on_progress):
        path.write_bytes(whole[:5000])  # all was verified; nothing has been read yet
        launch.launch(work, on_progress)

    with monkeypatch.context() as patch:
        patch.setattr(training, "launch", cut_and_launch)
        code, _, error = rankbench("bench", "tensor_rank", *overrides)
    assert code == 1
    assert "train-images-idx3-ubyte with 5000 bytes" in error
    frame = load_runs(tmp_path / "r")
    statuses = frame.groupby("data.name").status.agg(set)
    assert statuses["digits"] == {"max_steps"}
    assert statuses["mnist"] == {"failed"}
    before = records(tmp_path / "r")
    path.write_bytes(whole)
    code, _, error = rankbench("bench", "tensor_rank", *overrides)
    assert code == 0, error
    frame = load_runs(tmp_path / "r")
    assert (frame.status == "max_steps").all()
    after = records(tmp_path / "r")
    assert all(after[key] == before[key] for key in frame.index[frame["data.name"] == "digits"])


def test_a_damaged_record(rankbench, tmp_path, sound):
    assert rankbench("bench", "tensor_rank", *SMALL, f"runs_dir={tmp_path}")[0] == 0
    before = records(tmp_path)
    damaged = next(iter(before))
    path = tmp_path / "tensor_rank" / damaged / "record.json"
    path.write_bytes(before[damaged][: len(before[damaged]) // 2])
    code, out, error = rankbench("table", "tensor_rank", f"runs_dir={tmp_path}")
    assert code == 0
    assert f"left out: {path}" in error
    assert "11 of 12 runs done" in out
    code, _, error = rankbench("bench", "tensor_rank", *SMALL, f"runs_dir={tmp_path}")
    assert code == 0
    assert "12 cells, 1 to run" in error
    after = records(tmp_path)
    assert {k: v for k, v in after.items() if k != damaged}.items() <= before.items()
    assert numbers(tmp_path) == sound


@pytest.fixture
def kill_service():
    """Kill W&B's service, and wait for the dead, which W&B does not."""
    yield lambda: os.kill(_service_of(os.getpid()), signal.SIGKILL)
    for thing in gc.get_objects():
        if type(thing) is subprocess.Popen:
            thing.poll()


def _service_of(pid):
    """Return the process number of W&B's service."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            name = (folder / "comm").read_text()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z" and name.startswith("wandb"):
            return int(folder.name)
    raise AssertionError("W&B's service does not run")


def test_wandbs_service_is_killed(rankbench, tmp_path, monkeypatch, sound, kill_service):
    seen = []

    def kill(learner):
        seen.append(learner)
        if len(seen) == 2:
            kill_service()

    after_intervals(monkeypatch, kill)
    assert rankbench("bench", "tensor_rank", *SMALL, f"runs_dir={tmp_path}")[0] == 0
    assert numbers(tmp_path) == sound
    troubled = [
        key for key, text in records(tmp_path).items() if json.loads(text)["wandb"]["trouble"]
    ]
    assert len(troubled) == 6  # one stack; the other one has a new service
    code, out, _ = rankbench("runs", "--verify", f"runs_dir={tmp_path}")
    assert code == 1
    assert out.count("its W&B run is not whole") == 6
    assert "12 runs verified, 6 problems" in out


@pytest.mark.parametrize("opened", [1, 3, 6])
def test_wandbs_service_is_killed_while_runs_are_opened(
    rankbench, tmp_path, monkeypatch, sound, kill_service, opened
):
    from bench.store import tracker

    seen = []

    def open_and_kill(*arguments, **settings):
        run = open_run(*arguments, **settings)
        seen.append(run)
        if len(seen) == opened:
            kill_service()
        return run

    monkeypatch.setattr(tracker, "open_run", open_and_kill)
    assert rankbench("bench", "tensor_rank", *SMALL, f"runs_dir={tmp_path}")[0] == 0
    assert numbers(tmp_path) == sound


class Server:
    """A server that answers one call and no other: what a network that goes away looks like."""

    def __enter__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.calls = []
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def _serve(self):
        with suppress(OSError):
            while True:
                self.calls.append(self.socket.accept())
                if len(self.calls) == 1:
                    self.calls[0][0].sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def __exit__(self, *_):
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which close() does not
        self.thread.join()
        for connection in [self.socket, *(call for call, _ in self.calls)]:
            connection.close()


def test_the_network_goes_in_online_mode(tmp_path, sound):
    command = [sys.executable, "-c", ONLINE, "bench", "tensor_rank", *SMALL]
    command += [f"runs_dir={tmp_path}", "tracking.mode=online"]
    with Server() as url:
        keys = {"WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": url}
        start = time.monotonic()
        done = subprocess.run(
            command, env=os.environ | keys, capture_output=True, text=True, timeout=240
        )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 120
    assert numbers(tmp_path) == sound
    modes = {json.loads(text)["wandb"]["mode"] for text in records(tmp_path).values()}
    assert modes == {"offline"}


def test_the_connection_is_lost_while_runs_train(rankbench, tmp_path, monkeypatch, sound):
    command = [sys.executable, "-c", ONLINE, "bench", "tensor_rank", *SMALL]
    command += [f"runs_dir={tmp_path}", "tracking.mode=online", "trainer.max_epochs=20"]
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
        bench = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while len(server.groups) < 6:  # all runs of the first stack are open
            assert bench.poll() is None
            time.sleep(0.02)
    _, error = bench.communicate(timeout=240)
    assert bench.returncode == 0, error
    assert numbers(tmp_path) == sound
    links = [json.loads(text)["wandb"] for text in records(tmp_path).values()]
    assert {link["mode"] for link in links} == {"offline"}
    code, out, _ = rankbench("runs", "--verify", f"runs_dir={tmp_path}")
    assert code == 0, out  # whole, on this machine
    with wandb_server(port=server.server_port):
        command = [sys.executable, "-m", "bench.cli", "sync", f"runs_dir={tmp_path}"]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "12 of 12 runs uploaded" in done.stdout


ONLINE = """
from bench.store import wandb_runs
wandb_runs.PATIENCE_SECONDS = 5
from bench.cli import main
main()
"""


@pytest.mark.parametrize("how", ["memory", "nan"])
def test_one_cell_goes_wrong(rankbench, tmp_path, sound, how):
    poisoned = ["--config-dir", str(Path(__file__).parent), f"runs_dir={tmp_path}"]
    poisoned += {
        "memory": ["learner._target_=poison.PoisonedLearner", "learner.how=memory"],
        "nan": ["model._target_=poison.PoisonedModel"],
    }[how]
    overrides = [*SMALL, *poisoned, "classes=[0]", "variants=[original]"]
    code, _, error = rankbench("bench", "tensor_rank", *overrides)
    statuses = load_runs(tmp_path).set_index("model.rank").status.to_dict()
    found = numbers_of(tmp_path, statuses)
    assert found.pop(("original", 0, 2), None) is None or how == "nan"
    assert found == {cell: sound[cell] for cell in found}
    assert {rank for _, _, rank in found} == {1, 3}
    if how == "memory":
        assert code == 1
        assert statuses[2] == "failed"
        assert "1 run failed and will be retried: RuntimeError" in error
        assert "memory" in error
    else:
        assert code == 0  # the end of that run, not a fault of ours
        assert statuses[2] == "diverged"


def numbers_of(folder, statuses):
    """The numbers of the runs that have some."""
    for path in folder.glob("*/*/record.json"):
        if not (path.parent / "model.pt").exists():
            shutil.rmtree(path.parent)
    return numbers(folder)


def test_a_cell_that_kills_its_process(rankbench, tmp_path, sound):
    overrides = [*SMALL, "classes=[0]", "variants=[original]", f"runs_dir={tmp_path}"]
    overrides += ["--config-dir", str(Path(__file__).parent), "sweep.jobs=2"]
    overrides += ["learner._target_=poison.PoisonedLearner", "learner.how=kill"]
    code, out, error = rankbench("bench", "tensor_rank", *overrides)
    assert code == 1
    assert "1 run failed and will be retried" in error
    assert "its process was killed by signal 9" in error
    assert "2 of 3 runs done" in out
    found = numbers(tmp_path)
    assert found == {cell: sound[cell] for cell in [("original", 0, 1), ("original", 0, 3)]}
