"""Record files: what they hold, and that nothing in one can do harm."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
import wandb
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import record_of
from pydantic import ValidationError

from bench.core.errors import UserError
from bench.core.files import write_atomically
from bench.core.status import Status
from bench.learners.base import Outcome
from bench.plan import plan_benchmark
from bench.store import tracker as tracking
from bench.store.location import RunLocation
from bench.store.record import (
    FORMAT,
    DamagedRecord,
    NewerRecord,
    WandbLink,
    read_record,
    write_record,
)
from bench.store.results import MISSING, Results, load_runs, record_paths
from bench.store.run_locks import Held
from bench.store.tracker import Tracker
from bench.store.wandb_files import (
    load_wandb_results,
    read_wandb_file,
    verify_records,
    wandb_file,
)
from bench.store.wandb_runs import TrackingConfig, offline_reason, open_run

pytestmark = pytest.mark.usefixtures("toy_config")


@cache
def cells():
    return plan_benchmark("toy", ["ranks=[1]"]).cells


def record_two(folder, mode="offline", given=None):
    location = RunLocation(folder, "toy", TrackingConfig(mode=mode), "rankbench bench toy")
    with Tracker(given or cells(), location) as tracker:
        for i in range(2):
            for epoch in (10, 20):
                tracker.log(i, {"epoch": epoch, "train_error": 0.1 / epoch, "test_error": 0.5})
            weights = {"factors": torch.ones(2, 1000)[:, 0]}  # a view
            metrics = {"epoch": 20, "train_error": 0.005, "test_error": float("nan")}
            status = Status.DIVERGED if i else Status.MAX_STEPS
            tracker.finish(i, Outcome(status, metrics, weights))
    return location


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    from bench import configuration

    configuration.add_folder(Path(__file__).parents[2] / "toy")
    record_two(folder)
    return folder


def test_a_record_holds_all_that_the_design_asks_for(recorded):
    for path in record_paths(recorded):
        record = read_record(path)
        assert record.config in [cell.config for cell in cells()]
        assert record.metrics["test_error"] is None  # NaN has no word in JSON
        assert [point["epoch"] for point in record.curve] == [10, 20]
        assert record.versions["torch"] == torch.__version__.split("+")[0]
        assert record.host.cores >= 1
        assert record.host.threads == (torch.get_num_threads(),)
        assert record.host.instruction_sets == (torch.backends.cpu.get_cpu_capability(),)
        assert record.wall_time_s > 0
        assert record.command == "rankbench bench toy"
        assert str(Path.home()) not in path.read_text()
        loaded = torch.load(path.parent / "model.pt", weights_only=True)
        assert torch.equal(loaded["factors"], torch.ones(2))
        assert (path.parent / "model.pt").stat().st_size < 4000


def test_what_is_written_is_what_is_read(tmp_path):
    (cell, _) = cells()
    (tmp_path / cell.run_key).mkdir()
    record = record_of(cell, "toy", error="with\nlines and é", metrics={"a": None, "b": -0.0})
    write_record(tmp_path / cell.run_key, record)
    assert read_record(tmp_path / cell.run_key / "record.json") == record


def test_a_relative_run_folder_is_as_good(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record_two(Path("runs"))
    assert verify_records(Path("runs")) == []
    assert len(load_runs()) == 2


def test_the_wandb_file_agrees_with_the_record(recorded):
    assert verify_records(recorded) == []
    (record,) = [r for r in map(read_record, record_paths(recorded)) if r.seed == 0]
    (file,) = (recorded / "toy" / record.run_key / record.wandb.path).glob("*.wandb")
    stored = read_wandb_file(file)
    assert stored["run"]["project"] == "rankbench"
    assert stored["run"]["run_group"] == "toy"
    assert stored["run"]["job_type"] == "toy/original"
    assert stored["config"]["model"] == record.config["model"]
    assert stored["config"]["run_key"] == record.run_key
    assert [row["train_error"] for row in stored["history"]] == [0.01, 0.005]
    assert stored["summary"]["train_error"] == 0.005
    assert stored["summary"]["status"] == "max_steps"


def test_more_runs_than_are_open_at_once_are_whole_too(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "MOST_OPEN", 1)
    opened = []
    real = tracking.open_run
    monkeypatch.setattr(tracking, "open_run", lambda *a, **k: opened.append(1) or real(*a, **k))
    location = RunLocation(tmp_path, "toy", TrackingConfig())
    with Tracker(cells(), location):
        assert len(opened) == 1
    record_two(tmp_path)
    assert verify_records(tmp_path) == []
    assert set(load_runs(tmp_path).status) == {"max_steps", "diverged"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"metrics": {"train_error": 0.004}}, "the metrics"),
        ({"status": Status.CONVERGED}, "the status"),
        ({"curve": [{"epoch": 10.0, "train_error": 0.3}]}, "the curve"),
        ({"attempt": 5}, "the configuration"),
    ],
)
def test_verify_names_what_does_not_agree(tmp_path, change, named):
    record_two(tmp_path)
    path = record_paths(tmp_path)[0]
    write_record(path.parent, replace(read_record(path), **change))
    (problem,) = verify_records(tmp_path)
    assert named in problem
    assert str(path) in problem


def test_verify_names_a_damaged_wandb_file(tmp_path):
    record_two(tmp_path)
    path = record_paths(tmp_path)[0]
    wandb_file(path.parent).write_bytes(b"no header of W&B")
    problems = verify_records(tmp_path)
    assert problems
    assert all(str(path) in problem for problem in problems)
    assert load_wandb_results(tmp_path, "toy").frame.status[path.parent.name] == MISSING


def test_a_final_record_is_left_alone(tmp_path):
    location = record_two(tmp_path)
    before = {path: path.read_bytes() for path in record_paths(tmp_path)}
    with pytest.raises(Held, match="have ended"), Tracker(cells(), location):
        raise AssertionError("trained again what another process has finished meanwhile")
    assert {path: path.read_bytes() for path in record_paths(tmp_path)} == before


def test_an_error_is_recorded_with_its_traceback_and_an_interruption_as_stopped(tmp_path):
    location = RunLocation(tmp_path, "toy", TrackingConfig(mode="disabled"))

    def interrupted_by(error):
        with Tracker(cells(), location) as tracker:
            tracker.log(0, {"epoch": 1, "train_error": 0.2})
            raise error

    path = tmp_path / "toy" / cells()[0].run_key / "record.json"
    with pytest.raises(ArithmeticError):
        interrupted_by(ArithmeticError("broken"))
    record = read_record(path)
    assert record.status == "failed"
    assert "ArithmeticError: broken" in record.error
    assert record.metrics == {"epoch": 1, "train_error": 0.2}
    assert str(Path(tracking.__file__).parents[2]) not in record.error
    with pytest.raises(KeyboardInterrupt):
        interrupted_by(KeyboardInterrupt())
    assert read_record(path).status == "stopped"
    assert load_runs(tmp_path).status.tolist() == ["stopped", "stopped"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"format": 2}', b"\xff\xfe", b"[" * 5000, b"1" * 10000],
)
def test_a_damaged_record_is_named_and_skipped(tmp_path, content):
    path = tmp_path / "toy" / "0123456789abcdef" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DamagedRecord, match=r"record\.json"):
        read_record(path)
    results = Results.from_runs(tmp_path)
    assert len(results.frame) == 0
    assert str(path) in results.damaged[0]


HUGE = 10**400
BAD = {
    "a huge integer as a metric": ({"metrics": {"a": HUGE}}, "metrics.a"),
    "infinity as a metric": ({"metrics": {"a": float("inf")}}, "metrics.a"),
    "a truth value as a metric": ({"metrics": {"a": True}}, "metrics.a"),
    "a text as a metric": ({"metrics": {"a": "1"}}, "metrics.a"),
    "a list in the curve": ({"curve": [{"epoch": [1]}]}, "curve.0.epoch"),
    "a metric under the name of a column": ({"metrics": {"status": 1.0}}, "status"),
    "a metric that looks like a setting": ({"metrics": {"model.rank": 1.0}}, "model.rank"),
    "a huge attempt": ({"attempt": HUGE}, "attempt"),
    "attempt 0": ({"attempt": 0}, "attempt"),
    "no seed": ({"seed": None}, "seed"),
    "another seed": ({"seed": 77}, "seed"),
    "an unknown status": ({"status": "great"}, "status"),
    "a date that is none": ({"created": "yesterday"}, "isoformat"),
    "no configuration": ({"config": None}, "config"),
    "a configuration of something else": ({"config": {"a": 1}}, "config"),
    "a group that is a number": (
        {"config": {"variant": "a", "seed": 0, "data": 1, "model": {}, "learner": {}}},
        "config",
    ),
    "a W&B folder elsewhere": (
        {"wandb": {"mode": "offline", "run_id": "a", "path": "../../etc"}},
        "wandb.path",
    ),
    "a W&B folder at the root": (
        {"wandb": {"mode": "offline", "run_id": "a", "path": "/etc"}},
        "wandb.path",
    ),
    "a field that nobody knows": ({"colour": "red"}, "colour"),
    "a commit that is a number": ({"git": {"commit": 1, "dirty": None}}, "git.commit"),
    "versions in a list": ({"versions": ["1"]}, "versions"),
    "a record of another run": ({"run_key": "f" * 16}, "this folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_record_with_a_wrong_value_is_one_line(tmp_path, case):
    change, named = BAD[case]
    (cell, _) = cells()
    folder = tmp_path / "toy" / cell.run_key
    folder.mkdir(parents=True)
    write_record(folder, record_of(cell, "toy"))
    path = folder / "record.json"
    sys.set_int_max_str_digits(0)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    results = Results.from_runs(tmp_path)
    assert len(results.frame) == 0
    (line,) = results.damaged
    assert named in line
    assert str(path) in line
    assert len(line.splitlines()) == 1
    assert len(line) < 700


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=20)
@given(st.data())
def test_any_value_in_any_place_gives_a_run_or_one_line(tmp_path_factory, data):
    """Whatever can be read can also be written as a results folder and read back."""
    tmp_path = tmp_path_factory.mktemp("any")
    (cell, other) = cells()
    for each in (cell, other):
        (tmp_path / "toy" / each.run_key).mkdir(parents=True)
        write_record(tmp_path / "toy" / each.run_key, record_of(each, "toy"))
    path = tmp_path / "toy" / cell.run_key / "record.json"
    content = json.loads(path.read_text())
    node = content
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(json_values)
            break
        node = node[key]
    path.write_text(json.dumps(content))
    results = Results.from_runs(tmp_path)
    assert len(results.frame) + len(results.damaged) == 2
    assert all(len(line.splitlines()) == 1 for line in results.damaged)
    results.write(tmp_path)
    assert len(Results.from_folder(tmp_path).frame) == len(results.frame)
    assert len((results | results).frame) == len(results.frame)


def test_a_record_of_format_1_is_named_as_such(tmp_path):
    path = tmp_path / "toy" / "0123456789abcdef" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": 1, "versions": {"rankbench": "0.1.0"}}))
    (line,) = Results.from_runs(tmp_path).damaged
    assert "written by rankbench 0.1 (format 1)" in line
    assert "run it again" in line


def test_a_record_of_a_newer_format_is_never_written_over(tmp_path, rankbench, toy_config):
    (cell, _) = cells()
    path = tmp_path / "toy" / cell.run_key / "record.json"
    path.parent.mkdir(parents=True)
    text = json.dumps({"format": FORMAT + 1, "versions": {"rankbench": "7.5.0"}, "new": 1})
    path.write_text(text)
    with pytest.raises(NewerRecord, match=r"rankbench 7\.5\.0"):
        record_two(tmp_path, "disabled")
    for command in (["bench", "toy"], ["run", "benchmark=toy"]):
        code, _, error = rankbench(*command, *toy_config, f"runs_dir={tmp_path}")
        assert code == 2
        assert "rankbench 7.5.0" in error
        assert error.count("\n") == 1
    assert path.read_text() == text
    assert len(record_paths(tmp_path)) == 1


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


@pytest.mark.parametrize("path", ["/a", "..", "a/../../b", "a\0b"])
def test_a_wandb_folder_is_inside_the_run(path):
    with pytest.raises((UserError, ValidationError), match=r"wandb\.path"):
        WandbLink(mode="offline", path=path)


def test_online_without_a_key_is_not_possible(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert offline_reason() == "no W&B key was found (`wandb login` stores one)"
    assert TrackingConfig(mode="online").reachable() == TrackingConfig(mode="offline")
    assert "no W&B key was found" in capsys.readouterr().err
    assert TrackingConfig(mode="disabled").reachable().mode == "disabled"


def test_a_key_in_netrc_counts_for_its_host(monkeypatch, tmp_path):
    url = wandb.setup().settings.base_url
    machine = urlsplit(url).hostname
    (tmp_path / "netrc").write_text(f"machine {machine} login user password {'x' * 40}\n")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # where nobody listens
    assert offline_reason() == f"{url} does not answer (ProxyError)"


@pytest.mark.slow
def test_online_without_a_network_loses_nothing(tmp_path, toy_config):
    command = [sys.executable, "-m", "bench.cli", "bench", "toy", "tracking.mode=online"]
    command += ["ranks=[1]", "seeds=[0]", f"runs_dir={tmp_path}", *toy_config]
    nowhere = {"WANDB_API_KEY": "x" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    done = subprocess.run(command, env=os.environ | nowhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "http://127.0.0.1:9 does not answer (ConnectionError)" in done.stderr
    assert "kept offline" in done.stderr
    (path,) = record_paths(tmp_path)
    assert read_record(path).wandb.mode == "offline"
    assert verify_records(tmp_path) == []
    assert "x" * 40 not in path.read_text()


def test_the_commit_is_of_our_own_folder_whatever_git_is_told(tmp_path):
    """Inside a git hook, GIT_DIR names the repository of whoever commits."""
    code = "from bench.store.provenance import git_state; print(git_state())"
    plain = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    told = os.environ | {"GIT_DIR": str(tmp_path / ".git"), "GIT_WORK_TREE": str(tmp_path)}
    hooked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told)
    assert plain.returncode == 0
    assert hooked.stdout == plain.stdout


def test_wandbs_own_environment_variables_are_heeded_unless_settings_say_otherwise(
    monkeypatch, tmp_path
):
    names = {"PROJECT": "mine", "NAME": "my run", "RUN_GROUP": "my group", "TAGS": "a,b"}
    for name, value in names.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert TrackingConfig().mode == "disabled"
    assert TrackingConfig(project="theirs").project == "theirs"
    run = open_run(
        tmp_path,
        TrackingConfig(mode="offline"),
        group="toy",
        job_type="digits/original",
        name="ours",
        step="epoch",
        config={"seed": 0},
    )
    run.finish()
    stored = read_wandb_file(wandb_file(tmp_path))
    assert (stored["run"]["project"], stored["run"]["run_group"]) == ("mine", "my group")
    assert (run.name, run.tags) == ("my run", ("toy", "original", "a", "b"))
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    with pytest.raises(UserError, match="WANDB_MODE=dryrun: expected offline, online or disabled"):
        TrackingConfig()
