"""Launching: in this process and in several, through failures, signals and limits."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.execute import launch as launching
from bench.execute.launch import in_processes, in_turn
from bench.execute.work import Work
from bench.plan import plan_benchmark
from bench.store.location import RunLocation
from bench.store.record import read_record
from bench.store.results import load_runs
from bench.store.wandb_files import verify_records
from bench.store.wandb_runs import TrackingConfig

pytestmark = pytest.mark.usefixtures("toy_config")


def work_on(folder, *overrides, mode="disabled"):
    plan = plan_benchmark("toy", ["sweep.max_memory=1", *overrides])
    return Work(plan.cells, RunLocation(folder, "toy", TrackingConfig(mode=mode)), plan.sweep, {})


def start(folder, *overrides, before=""):
    """Start `rankbench bench toy` as a user does."""
    toy = Path(__file__).parents[2] / "toy"
    command = [sys.executable, "-m", "bench.cli", "bench", "toy", "--config-dir", str(toy)]
    command += [f"runs_dir={folder}", "tracking.mode=disabled", *overrides]
    command = ["bash", "-c", f'{before} exec "$@"', "bash", *command] if before else command
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # A test that runs under `nohup` would hand its deafness to a hangup on.
    return subprocess.Popen(command, **pipes, preexec_fn=listen_to_hangups)


def listen_to_hangups():
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def wait_until(condition, what):
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def of_session(process):
    """Return the processes, but the first, whose environment is marked by a test."""
    mark = f"MARK={process}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_a_faulty_cell_costs_no_other(tmp_path):
    work = work_on(tmp_path, "model.fault=error")
    assert len(work.stacks()) == 1
    in_turn(work)
    statuses = load_runs(tmp_path).groupby("model.rank").status.agg(set).to_dict()
    assert statuses == {1: {"max_steps", "converged"}, 2: {"failed"}, 3: {"max_steps", "converged"}}
    (line,) = work.failures()
    assert line == "2 runs failed and will be retried: RuntimeError: a fault of its own"


def test_a_stack_with_too_many_open_files_is_halved(tmp_path):
    work = work_on(tmp_path, "model.fault=files")
    in_turn(work)
    assert work.failures() == []
    assert len(load_runs(tmp_path)) == 6


def test_a_full_disk_is_not_tried_with_each_half(tmp_path):
    work = work_on(tmp_path, "model.fault=disk")
    in_turn(work)
    assert (load_runs(tmp_path).attempt == 1).all()
    assert "No space left on device" in work.failures()[0]


@pytest.mark.slow
def test_a_cell_that_kills_its_process_costs_no_other(tmp_path):
    work = work_on(tmp_path, "model.fault=kill", "seeds=[0]", "sweep.jobs=2")
    in_processes(work, lambda *_: None)
    assert sorted(load_runs(tmp_path)["model.rank"]) == [1, 3]
    (line,) = work.failures()
    assert line.startswith("1 run failed")
    assert "its process was killed by signal 9" in line


def test_processes_with_long_errors_end(tmp_path):
    """A pipe holds 64 KiB: the parent reads it before a process has ended."""
    words = ["model.fault=long", "ranks=[2]", f"seeds={list(range(60))}", "sweep.jobs=2"]
    work = work_on(tmp_path, *words)
    in_processes(work, lambda *_: None)
    (line,) = work.failures()
    assert line.startswith("60 runs failed")
    assert "x" * 3000 in line


def test_one_process_and_several_give_the_same(tmp_path):
    in_turn(work_on(tmp_path / "one"))
    in_processes(work_on(tmp_path / "two", "sweep.jobs=2"), lambda *_: None)
    frames = [load_runs(tmp_path / name).sort_index() for name in ("one", "two")]
    assert frames[0].train_error.tolist() == frames[1].train_error.tolist()
    assert set(frames[1].stacked_with) == {3}


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_no_child_outlives_the_parent(tmp_path, sent, monkeypatch):
    monkeypatch.setenv("MARK", str(tmp_path))
    bench = start(tmp_path, "sweep.jobs=2", "learner.pause_s=0.3", "learner.intervals=1000")
    wait_until(lambda: len(list(tmp_path.glob("toy/*/attempt.1"))) == 6, "nothing began")
    assert len(of_session(tmp_path)) >= 3
    os.kill(bench.pid, sent)
    _, error = bench.communicate(timeout=60)
    codes = {signal.SIGINT: 130, signal.SIGKILL: -9}
    assert bench.returncode == codes.get(sent, 128 + sent)
    assert "Traceback" not in error
    wait_until(lambda: not of_session(tmp_path), "a process is left")
    assert set(load_runs(tmp_path, "toy").status) == {"stopped"}


@pytest.mark.slow
def test_a_hangup_that_is_ignored_stays_ignored(tmp_path):
    words = ["learner.pause_s=0.1", "learner.intervals=20"]
    bench = start(tmp_path, *words, before="trap '' HUP;")
    wait_until(lambda: list(tmp_path.glob("toy/*/attempt.1")), "nothing began")
    os.kill(bench.pid, signal.SIGHUP)
    _, error = bench.communicate(timeout=60)
    assert bench.returncode == 0, error


@pytest.mark.stress
def test_a_stack_larger_than_the_limit_of_open_files_loses_no_fit(tmp_path):
    """Without a bound on open W&B runs, 150 of them need more than 300 descriptors."""
    script = (
        "import sys, resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))\n"
        "from bench.cli import main\n"
        "main()\n"
    )
    toy = Path(__file__).parents[2] / "toy"
    command = [sys.executable, "-c", script, "bench", "toy", "--config-dir", str(toy)]
    command += ["ranks=[1]", f"seeds={list(range(150))}", f"runs_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert "150 of 150 runs done" in done.stdout
    assert set(load_runs(tmp_path, "toy").stacked_with) == {150}
    assert verify_records(tmp_path / "toy" / "..") == []


def test_the_limit_of_open_files_is_raised_as_far_as_permitted():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
        launching.raise_file_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_finished_is_not_opened_again(tmp_path):
    in_turn(work_on(tmp_path, "ranks=[1]"))
    plan = plan_benchmark("toy", ["ranks=[1,2]"])
    location = RunLocation(tmp_path, "toy", TrackingConfig(mode="disabled"))
    finished = set(load_runs(tmp_path).index)
    for key in finished:  # would be named as damaged, and trained again
        (tmp_path / "toy" / key / "record.json").write_text("")
    work = Work(plan.cells, location, plan.sweep, {}, finished)
    assert [cell.model.rank for cell in work.pending().values()] == [2, 2]


def test_the_folder_of_a_clusters_jobs_is_ours_alone(tmp_path, monkeypatch):
    """What lies there is unpickled."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\necho refused >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    plan = plan_benchmark("toy", ["hydra/launcher=submitit_slurm"])
    location = RunLocation(tmp_path / "runs", "toy", TrackingConfig(mode="disabled"))
    location.folder.mkdir(parents=True)
    work = Work(plan.cells, location, plan.sweep, plan.launcher)
    from bench.core.errors import UserError

    with pytest.raises(UserError, match="sbatch"):
        launching.launch(work, lambda *_: None)
    assert (location.folder / ".jobs").stat().st_mode & 0o777 == 0o700


def test_a_launcher_that_is_not_supported_is_refused():
    from bench.core.errors import UserError

    with pytest.raises(UserError, match=r"LocalLauncher: expected basic, with sweep.jobs"):
        launching.is_slurm({"_target_": "hydra_plugins.submitit.LocalLauncher"})


@pytest.mark.slow
def test_a_record_says_who_asked_for_it(tmp_path):
    bench = start(tmp_path, "ranks=[1]", "seeds=[0]")
    _, error = bench.communicate(timeout=120)
    assert bench.returncode == 0, error
    (path,) = tmp_path.glob("toy/*/record.json")
    record = read_record(path)
    assert record.command == "rankbench bench toy tracking.mode=disabled 'ranks=[1]' 'seeds=[0]'"
    (plan,) = tmp_path.glob("toy/.plans/*.json")
    assert json.loads(plan.read_text())["command"] == record.command
