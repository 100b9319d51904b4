"""Run keys are forever: the commands of committed results still ask for the committed runs."""

import shlex
from pathlib import Path

import pandas as pd
import pytest
from made_up import write_patches

from bench.plan import plan_benchmark

RESULTS = Path(__file__).parents[2] / "results"
FIRST_FORMAT = 2  # before it, keys were hashes of the whole configuration


def committed():
    for path in sorted(RESULTS.rglob("runs.parquet")):
        frame = pd.read_parquet(path)
        for command, runs in frame[frame.format >= FIRST_FORMAT].groupby("command"):
            yield pytest.param(command, set(runs.index), id=f"{path.parent.name}: {command}")


@pytest.mark.parametrize(("command", "keys"), list(committed()))
def test_a_recorded_command_still_asks_for_its_runs(command, keys, tmp_path, monkeypatch):
    if "patches.npz" in command:
        monkeypatch.chdir(tmp_path)
        write_patches()
    _, verb, name, *overrides = shlex.split(command)
    assert verb == "bench"
    assert keys <= {cell.run_key for cell in plan_benchmark(name, overrides).cells}


def test_some_results_are_held():
    assert any(committed())
