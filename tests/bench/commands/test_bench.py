"""The command that runs a benchmark: what it reads, prints and refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import record_of

from bench.plan import plan_benchmark
from bench.store.record import read_record, write_record
from bench.store.results import load_runs
from bench.store.run_locks import RunLocks

OPENED = []


@pytest.fixture
def opened():
    """The files that this process opens."""
    if not OPENED:  # an audit hook stays for good
        OPENED.append("")
        sys.addaudithook(lambda event, a: OPENED.append(str(a[0])) if event == "open" else None)
    del OPENED[1:]
    return OPENED


def test_a_benchmark_is_run_shown_and_named(rankbench, toy_config, tmp_path):
    words = [f"runs_dir={tmp_path}", "tracking.mode=disabled"]
    code, out, error = rankbench("bench", "toy", *words, *toy_config)
    assert code == 0
    assert "toy: 6 cells, 6 to run in 1 stack," in error
    assert "6 of 6 runs done" in out
    assert f"figure: {tmp_path}/toy/figure.png\nruns:   {tmp_path}/toy" in out
    assert (tmp_path / "toy" / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_benchmark_opens_each_record_once(rankbench, toy_config, tmp_path, opened):
    words = [f"runs_dir={tmp_path}", "tracking.mode=disabled", f"seeds={list(range(150))}"]
    for cell in plan_benchmark("toy", words).cells:
        folder = tmp_path / "toy" / cell.run_key
        folder.mkdir(parents=True)
        write_record(folder, record_of(cell, "toy"))
    code, out, error = rankbench("bench", "toy", *words, *toy_config)
    assert code == 0, error
    assert "450 cells, 0 to run" in error
    assert "450 of 450 runs done" in out
    records = [path for path in opened if path.endswith("record.json")]
    assert len(records) == len(set(records)) == 450


def test_a_finished_benchmark_does_not_wait_for_wandb(toy_config, tmp_path):
    words = [f"runs_dir={tmp_path}", "tracking.mode=disabled", "ranks=[1]"]
    for cell in plan_benchmark("toy", words).cells:
        folder = tmp_path / "toy" / cell.run_key
        folder.mkdir(parents=True)
        write_record(folder, record_of(cell, "toy"))
    words = ["bench", "toy", *words, *toy_config]
    code = f"import sys\nfrom bench.cli import main\ntry:\n    main({words})\n"
    code += "finally:\n    print('wandb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "2 of 2 runs done" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "False"


def test_options_may_stand_anywhere(rankbench, toy_config, tmp_path):
    words = [f"runs_dir={tmp_path}", "tracking.mode=disabled", "ranks=[1]"]
    assert rankbench("bench", *toy_config, "toy", *words)[0] == 0
    code, _, error = rankbench("bench", "toy", words[0], *toy_config, *words[1:])
    assert code == 0
    assert "2 cells, 0 to run" in error


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["bench", "ranks=[1]", "toy"], "a name before the first override"),
        (["bench", "toy", "--config-dir", "nowhere"], "--config-dir nowhere"),
    ],
)
def test_a_mistake_is_one_line(rankbench, toy_config, arguments, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, error = rankbench(*arguments)
    assert (code, out) == (2, "")
    assert hint in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_reported_and_the_rest_is_shown(rankbench, toy_config, tmp_path):
    words = [f"runs_dir={tmp_path}", "tracking.mode=disabled", *toy_config]
    code, out, error = rankbench("bench", "toy", "model.fault=error", *words)
    assert code == 1
    assert "rankbench: 2 runs failed and will be retried: RuntimeError" in error
    assert "4 of 6 runs done" in out


def test_one_configuration_is_run_once(rankbench, toy_config, tmp_path):
    words = ["benchmark=toy", "model.rank=2", f"runs_dir={tmp_path}", "tracking.mode=disabled"]
    code, out, _ = rankbench("run", *words, *toy_config)
    assert code == 0
    (key,) = load_runs(tmp_path, "toy").index
    record = read_record(tmp_path / "toy" / key / "record.json")
    assert f"max_steps  epoch 3  train_error {record.metrics['train_error']:.6g}" in out
    assert f"run: {tmp_path / 'toy' / key}" in out
    code, out, _ = rankbench("run", *words, *toy_config)
    assert code == 0
    assert "already recorded" in out
    assert load_runs(tmp_path, "toy").attempt.tolist() == [1]


def test_a_multirun_runs_every_combination(rankbench, toy_config, tmp_path):
    words = ["benchmark=toy", "model.rank=1,2", "seed=0,1", f"runs_dir={tmp_path}"]
    code, out, _ = rankbench("run", "-m", *words, "tracking.mode=disabled", *toy_config)
    assert code == 0
    frame = load_runs(tmp_path, "toy")
    assert sorted(zip(frame["model.rank"], frame.seed, strict=True)) == [
        (1, 0), (1, 1), (2, 0), (2, 1)
    ]  # fmt: skip
    assert out.count("run: ") == 4
    assert "rankbench run -m" in frame.command.iloc[0]


def test_runs_are_counted(rankbench, toy_config, tmp_path):
    words = [f"runs_dir={tmp_path}", *toy_config]
    rankbench("bench", "toy", "ranks=[1]", *words)
    code, out, _ = rankbench("runs", "--verify", *words)
    assert code == 0
    assert "2 runs verified, 0 problems" in out
    next(tmp_path.glob("toy/*/record.json")).write_text("{")
    code, _, error = rankbench("runs", *words)
    assert code == 1
    assert "1 file left out" in error


def test_runs_are_removed_but_none_that_trains(rankbench, toy_config, tmp_path):
    words = [f"runs_dir={tmp_path}", "tracking.mode=disabled", *toy_config]
    assert rankbench("bench", "toy", "model.fault=error", *words)[0] == 1
    code, out, _ = rankbench("runs", "--where", "status=failed", f"runs_dir={tmp_path}")
    assert (code, "2 runs in" in out) == (0, True)
    failed = load_runs(tmp_path, "toy").query("status == 'failed'").index
    with RunLocks(tmp_path / "toy") as locks:
        locks.take(failed[:1])
        remove = ["runs", "--where", "status=failed", "--remove", f"runs_dir={tmp_path}"]
        code, out, _ = rankbench(*remove)
        assert (code, out.endswith("1 run removed; 1 being trained\n")) == (0, True)
    assert (tmp_path / "toy" / failed[0] / "record.json").exists()
    assert not (tmp_path / "toy" / failed[1]).exists()
    assert rankbench(*remove)[1].endswith("1 run removed\n")
    assert set(load_runs(tmp_path, "toy").status) == {"converged", "max_steps", "missing"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs", "--remove"], "--remove without --where: expected the runs to remove"),
        (["runs", "--where", "status=done"], "--where status=done: expected one of the recorded"),
        (["runs", "model.rank=3"], "model.rank=3: expected one of runs_dir, results_dir"),
        (["table", "toy", "--columns", "tset_error"], "--columns tset_error: expected some of"),
        (["table", "toy", "--columns", "epoch,epoch"], "expected each of them once"),
    ],
)
def test_what_cannot_be_listed_is_refused(rankbench, toy_config, tmp_path, arguments, message):
    words = [f"runs_dir={tmp_path}", *toy_config]
    rankbench("bench", "toy", "ranks=[1]", "tracking.mode=disabled", *words)
    code, _, error = rankbench(*arguments, f"runs_dir={tmp_path}")
    assert (code, message in error, error.count("\n")) == (2, True, 1)
    assert len(load_runs(tmp_path, "toy")) == 2


def test_a_table_shows_the_columns_asked_for(rankbench, toy_config, tmp_path):
    words = [f"runs_dir={tmp_path}", *toy_config]
    rankbench("bench", "toy", "tracking.mode=disabled", *words)
    code, out, _ = rankbench("table", "toy", "--columns", "test_error,epoch", *words)
    assert code == 0
    assert "| rank | test error | epoch |" in out


def test_a_metric_that_names_the_rows_is_no_column_to_show(rankbench):
    results = f"results_dir={Path(__file__).parents[3] / 'results'}"
    words = ["table", "families", "--from", "results", "--columns", "train_error,parameters"]
    code, _, error = rankbench(*words, results)
    assert (code, "--columns parameters: expected some of" in error) == (2, True)


def test_the_time_is_estimated_from_runs_that_are_alike(rankbench, toy_config, tmp_path):
    words = ["learner.pause_s=0.2", f"runs_dir={tmp_path}", *toy_config]
    dry = ["bench", "toy", "--dry-run", *words]
    assert rankbench(*dry)[1].endswith("unknown, as no run like 6 of the cells is recorded\n")
    assert rankbench("bench", "toy", "ranks=[1]", "tracking.mode=disabled", *words)[0] == 0
    assert rankbench(*dry)[1].endswith("unknown, as no run like 4 of the cells is recorded\n")
    seconds = load_runs(tmp_path, "toy").wall_time_s.dropna().median() / 2
    out = rankbench(*dry, "ranks=[1]", "seeds=[0,1,2,3,4]")[1]
    assert f"estimated time: {3 * seconds / 60:.1f} min for 3 cells" in out


REPORT = "{title: a, section: data.name, rows: [variant], over: [seed], metrics: [train_error]"
REPORT += ", x: variant, hue: variant}"
MINE = "# @package _global_\nbenchmark:\n  name: mine\n"
FOLDERS = {
    "a file that hides one of ours": (
        {"data/digits.yaml": "_target_: data_prep.digits.Digits\nlevels: 4\n"},
        ["run"],
        "expected another name",
    ),
    "a module that raises": (
        {"model/broken.yaml": "_target_: broken.Config", "broken.py": "1 / 0\n"},
        ["run", "model=broken"],
        "ZeroDivisionError",
    ),
    "a module that is not there": (
        {"model/gone.yaml": "_target_: gone.Config"},
        ["run", "model=gone"],
        "model._target_='gone.Config'",
    ),
    "a benchmark without a report": (
        {"benchmark/mine.yaml": f"{MINE}  axes: {{seed: [0]}}\n"},
        ["bench", "mine"],
        "expected one with a key benchmark.report",
    ),
    "a benchmark without axes": (
        {"benchmark/mine.yaml": f"{MINE}  report: {REPORT}\n"},
        ["bench", "mine"],
        "benchmark.axes",
    ),
    "a benchmark with a misspelt key": (
        {"benchmark/mine.yaml": f"{MINE}  axes: {{seed: [0]}}\n  cass: [a]\n"},
        ["bench", "mine"],
        "did you mean cases?",
    ),
    "an experiment with a misspelt key": (
        {"experiment/theory/mine.yaml": "# @package _global_\nseed: 1\nseds: [1]\n"},
        ["bench", "theory", "experiment=theory/mine"],
        "the key seds: expected one of",
    ),
    "a case with a misspelt group": (
        {"case/theory/mine.yaml": "# @package _global_\nlerner: {patience: 3}\n"},
        ["bench", "theory", "case=theory/mine"],
        "did you mean learner?",
    ),
    "a benchmark without a name": (
        {"benchmark/mine.yaml": "# @package _global_\nbenchmark:\n  axes: {seed: [0]}\n"},
        ["run", "benchmark=mine"],
        "benchmark.name: mine",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_mistake_in_a_folder_of_ones_own_is_one_line(
    case, rankbench, toy_config, tmp_path, monkeypatch
):
    files, arguments, message = FOLDERS[case]
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_text(text)
    code, out, error = rankbench(*arguments, "--config-dir", str(tmp_path / "own"))
    assert (code, out) == (2, "")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_memory_estimate_includes_the_process(tmp_path):
    command = [sys.executable, "-m", "bench.cli", "bench", "tensor_rank", f"runs_dir={tmp_path}"]
    command += ["model=cp", "seeds=[0]", "trainer.max_epochs=5", "tracking.mode=disabled"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        error = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, error
    (estimate,) = re.findall(r"([\d.]+) GB per process", error)
    assert float(estimate) * 1e9 == pytest.approx(usage.ru_maxrss * 1024, rel=0.25)
