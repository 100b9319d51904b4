"""A finished benchmark of a thousand cells is called again."""

import json
import resource
import subprocess
import sys
import time

import pytest

from bench.report import load_runs
from bench.sweep import prepare

pytestmark = pytest.mark.stress

POINTS = 50  # of each curve, as in `make bench`


def test_a_finished_benchmark_of_1000_cells_restarts_in_15_seconds(rankbench, tmp_path):
    """All records are the one of a real run, with each cell's own configuration and key."""
    one = ["classes=[0]", "ranks=[1]", "seeds=[0]", "variants=[original]"]
    one += ["trainer.max_epochs=1", f"runs_dir={tmp_path / 'one'}"]
    rankbench("bench", "tensor_rank", *one)
    (path,) = tmp_path.glob("one/tensor_rank/*/record.json")
    record = json.loads(path.read_text())
    record["curve"] = record["curve"] * POINTS
    sweep = prepare(
        "tensor_rank", [f"seeds={list(range(34))}", "ranks=[1]", f"runs_dir={tmp_path}"]
    )
    for cell in sweep.cells:
        folder = tmp_path / "tensor_rank" / cell.run_key
        folder.mkdir()
        own = {"run_key": cell.run_key, "config": cell.config, "seed": cell.config["seed"]}
        (folder / "record.json").write_text(json.dumps({**record, **own}))
    command = [sys.executable, "-m", "bench.cli", "bench", "tensor_rank"]
    command += [f"seeds={list(range(34))}", "ranks=[1]", f"runs_dir={tmp_path}"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    after, elapsed = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - start
    # Processor time is what it takes on a core that nobody else uses.
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{len(sweep.cells)} cells: {spent:.1f} s of processor time, {elapsed:.1f} s in all")
    assert "1020 cells, 0 to run" in done.stderr
    assert "1020 of 1020 runs done" in done.stdout
    assert len(load_runs(tmp_path, "tensor_rank")) == 1020
    assert spent < 15
