"""What all tests share: quiet W&B, bounded property tests, made-up records, the command line."""

import json
import os
from itertools import product
from random import Random

import pytest
from hypothesis import settings

os.environ.setdefault("WANDB_SILENT", "true")

settings.register_profile("suite", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """Leave out the tests of real data where there is none; CI sets RANKBENCH_DATA."""
    if "RANKBENCH_DATA" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(pytest.mark.skip(reason="RANKBENCH_DATA is not set"))


@pytest.fixture
def rankbench(capsys):
    """Run the command line in this process; return exit code, stdout and stderr."""
    from bench.cli import main

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


@pytest.fixture
def made_up_runs():
    """Write records of `tensor_rank` without training; return the folder of a run by its axes."""
    from bench.config import Cell, compose, plain, scientific, with_values
    from bench.tracking.records import FORMAT, RECORD_FILE

    base = scientific(plain(compose(["benchmark=tensor_rank"])))
    errors = {"original": 0.01, "random_images": 0.08, "random_labels": 0.09}

    def write(runs_dir, *, ranks=(1, 5), classes=(0, 1), seeds=(0, 1), points=3):
        folders, draw = {}, Random(0)
        for variant, rank, target, seed in product(errors, ranks, classes, seeds):
            axes = {"variant": variant, "model.rank": rank, "data.target_class": target}
            cell = Cell.of(with_values(base, {**axes, "seed": seed}))
            end = errors[variant] * draw.uniform(0.9, 1.1)
            curve = [
                {"epoch": float(epoch), "train_error": end + 1 / (1 + epoch), "test_error": end}
                for epoch in range(points)
            ]
            metrics = {"train_error": end, "test_error": 1.1 * end, "constant_error": 0.09}
            folder = runs_dir / "tensor_rank" / cell.run_key
            folder.mkdir(parents=True)
            record = {
                "format": FORMAT, "benchmark": "tensor_rank", "run_key": cell.run_key,
                "status": "max_steps", "error": None, "attempt": 1, "seed": seed,
                "config": cell.config, "metrics": metrics, "curve": curve, "wall_time_s": 2.0,
                "stacked_with": 1, "created": "2026-01-01T00:00:00+00:00", "versions": {},
                "git": {"commit": "0" * 40, "dirty": False}, "host": {},
                "wandb": {"mode": "offline", "run_id": "a", "path": "wandb/offline-run-a"},
            }  # fmt: skip
            (folder / RECORD_FILE).write_text(json.dumps(record))
            folders[variant, rank, target, seed] = folder
        return folders

    return write
