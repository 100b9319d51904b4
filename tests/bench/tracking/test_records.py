"""Record files and their W&B twins."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.config import Cell, compose, plain, scientific
from bench.report import load_runs
from bench.status import Status
from bench.tracking import provenance
from bench.tracking import tracker as tracking
from bench.tracking.records import DamagedRecord, read_record, record_paths, write_atomically
from bench.tracking.tracker import Place, Tracker
from bench.tracking.verify import verify_records
from bench.tracking.wandb_runs import TrackingConfig, reachable_mode, read_wandb_file


def cells():
    base = plain(compose([]))
    return [Cell.of(scientific({**base, "seed": seed})) for seed in (0, 1)]


def record_two(folder, mode="offline"):
    place = Place(folder, "tensor_rank", TrackingConfig(mode=mode), mode)
    with Tracker(cells(), place) as tracker:
        for i in range(2):
            for epoch in (10, 20):
                tracker.log(i, {"epoch": epoch, "train_error": 0.1 / epoch, "test_error": 0.5})
            weights = {"factors": torch.ones(2)}
            metrics = {"epoch": 20, "train_error": 0.005, "test_error": float("nan")}
            tracker.finish(i, Status.DIVERGED if i else Status.MAX_STEPS, metrics, weights)
    return place


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    record_two(folder)
    return folder


def test_a_record_holds_all_that_the_design_asks_for(recorded):
    for path in record_paths(recorded):
        record = read_record(path)
        assert record["config"] in [cell.config for cell in cells()]
        assert record["metrics"]["test_error"] is None  # NaN has no word in JSON
        assert [point["epoch"] for point in record["curve"]] == [10, 20]
        assert record["versions"]["torch"] == torch.__version__.split("+")[0]
        assert set(record["host"]) >= {"processor", "cores"}
        assert record["host"]["instruction_sets"] == [torch.backends.cpu.get_cpu_capability()]
        assert record["host"]["threads"] == [torch.get_num_threads()]
        assert record["wall_time_s"] > 0
        assert str(Path.home()) not in path.read_text()
        loaded = torch.load(path.parent / "model.pt", weights_only=True)
        assert torch.equal(loaded["factors"], torch.ones(2))


def test_the_commit_is_that_of_the_source_and_of_the_start(tmp_path, monkeypatch):
    found = provenance.git_state.__wrapped__()
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    assert provenance.git_state.__wrapped__() == found
    started = {"commit": "1" * 40, "dirty": False}
    monkeypatch.setattr(provenance, "git_state", lambda: started)
    place = Place(tmp_path, "tensor_rank", TrackingConfig(), "disabled")
    with Tracker(cells()[:1], place) as tracker:
        monkeypatch.setattr(provenance, "git_state", lambda: {"commit": "2" * 40, "dirty": True})
        tracker.finish(0, Status.MAX_STEPS, {"epoch": 1})
    (path,) = record_paths(tmp_path)
    assert read_record(path)["git"] == started


def test_a_relative_run_folder_is_as_good(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record_two(Path("runs"))
    assert verify_records(Path("runs")) == []
    assert len(load_runs()) == 2


def test_the_wandb_file_agrees_with_the_record(recorded):
    assert verify_records(recorded) == []
    (path,) = [p for p in record_paths(recorded) if read_record(p)["seed"] == 0]
    record = read_record(path)
    (file,) = (path.parent / record["wandb"]["path"]).glob("*.wandb")
    stored = read_wandb_file(file)
    assert stored["project"] == "rankbench"
    assert stored["group"] == "tensor_rank"
    assert stored["job_type"] == "digits/original"
    assert stored["config"]["model"] == record["config"]["model"]
    assert stored["config"]["run_key"] == record["run_key"]
    assert [row["train_error"] for row in stored["history"]] == [0.01, 0.005]
    assert stored["summary"]["train_error"] == 0.005
    assert stored["summary"]["status"] == "max_steps"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"metrics": {"train_error": 0.004}}, "the metrics"),
        ({"status": "converged"}, "the status"),
        ({"curve": [{"epoch": 10, "train_error": 0.3}]}, "the curve"),
        ({"config": {"seed": 5}}, "the configuration"),
    ],
)
def test_verify_names_what_does_not_agree(tmp_path, change, named):
    record_two(tmp_path)
    path = next(record_paths(tmp_path))
    path.write_text(json.dumps({**read_record(path), **change}))
    (problem,) = verify_records(tmp_path)
    assert named in problem
    assert str(path) in problem


def test_a_final_record_is_left_alone(tmp_path):
    place = record_two(tmp_path)
    before = {path: path.read_bytes() for path in record_paths(tmp_path)}
    with Tracker(cells(), place) as tracker:
        tracker.finish(0, Status.CONVERGED, {"train_error": 0.0})
    assert {path: path.read_bytes() for path in record_paths(tmp_path)} == before


def test_an_error_is_recorded_with_its_traceback_and_an_interruption_as_stopped(tmp_path):
    place = Place(tmp_path, "tensor_rank", TrackingConfig(), "disabled")

    def interrupted_by(error):
        with Tracker(cells(), place) as tracker:
            tracker.log(0, {"epoch": 1, "train_error": 0.2})
            raise error

    with pytest.raises(ArithmeticError):
        interrupted_by(ArithmeticError("broken"))
    record = read_record(tmp_path / "tensor_rank" / cells()[0].run_key / "record.json")
    assert record["status"] == "failed"
    assert "ArithmeticError: broken" in record["error"]
    assert record["metrics"] == {"epoch": 1, "train_error": 0.2}
    assert str(Path(tracking.__file__).parents[2]) not in record["error"]
    with pytest.raises(KeyboardInterrupt):
        interrupted_by(KeyboardInterrupt())
    record = read_record(tmp_path / "tensor_rank" / cells()[0].run_key / "record.json")
    assert record["status"] == "stopped"
    assert load_runs(tmp_path).status.tolist() == ["stopped", "stopped"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"format": 1}', b"\xff\xfe", b"[" * 5000, b'{"format": 99}'],
)
def test_a_damaged_record_is_named_and_skipped(recorded, tmp_path, content):
    path = tmp_path / "tensor_rank" / "0123456789abcdef" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DamagedRecord, match=r"record\.json"):
        read_record(path)
    frame = load_runs(tmp_path)
    assert len(frame) == 0
    assert str(path) in frame.attrs["damaged"][0]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    write_atomically(path, b"old")

    def disk_full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_online_without_a_key_falls_back_to_offline(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert reachable_mode("online") == (
        "offline",
        "no W&B key was found (`wandb login` stores one)",
    )
    assert reachable_mode("disabled") == ("disabled", "")


def test_online_without_a_network_loses_nothing(tmp_path):
    command = [sys.executable, "-m", "bench.cli", "run", "tracking.mode=online"]
    command += ["trainer.max_epochs=1", f"runs_dir={tmp_path}"]
    nowhere = {"WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert "127.0.0.1 does not answer" in line
    assert "kept offline" in line
    (path,) = record_paths(tmp_path)
    assert read_record(path)["wandb"]["mode"] == "offline"
    assert verify_records(tmp_path) == []
    assert "x" * 40 not in path.read_text()
