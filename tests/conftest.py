"""What all tests share: quiet W&B, bounded property tests, made-up records, the command line."""

import os
from functools import cache
from pathlib import Path
from random import Random

import pytest
from hypothesis import Phase, settings
from made_up import record_of

TOY = Path(__file__).parent / "toy"

os.environ.setdefault("WANDB_SILENT", "true")

# To explain a failure, Hypothesis traces every line, which makes a figure take ten seconds.
PHASES = set(Phase) - {Phase.explain}
settings.register_profile("suite", deadline=None, max_examples=40, derandomize=True, phases=PHASES)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """Put slow tests first, so that no process waits for one at the end.

    Leave out those of real data where there is none; CI sets RANKBENCH_DATA.
    """
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
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
def toy_config(monkeypatch):
    """Find the benchmark `toy`, whose learner takes no time; return the words that find it."""
    from bench import configuration
    from bench.core.settings import TRUSTED

    monkeypatch.setattr(configuration, "FOLDERS", [*configuration.FOLDERS])
    monkeypatch.setattr("bench.core.settings.TRUSTED", [*TRUSTED])
    monkeypatch.syspath_prepend(TOY)
    configuration.add_folder(TOY)
    return ["--config-dir", str(TOY)]


@cache
def planned(benchmark, *overrides):
    """Return the cells of a plan, which takes a third of a second to compose."""
    from bench.plan import plan_benchmark

    return plan_benchmark(benchmark, overrides).cells


@pytest.fixture
def made_up_runs():
    """Write records of `tensor_rank` without training; return the folder of a run by its axes."""
    from bench.store.record import write_record

    errors = {"original": 0.01, "random_images": 0.08, "random_labels": 0.09}

    def write(runs_dir, *, ranks=(1, 5), classes=(0, 1), seeds=(0, 1), points=3):
        axes = {"ranks": ranks, "classes": classes, "seeds": seeds}
        overrides = [f"{name}=[{','.join(map(str, v))}]" for name, v in axes.items()]
        overrides.append("model=cp")
        folders, random = {}, Random(0)
        for cell in planned("tensor_rank", *overrides):
            end = errors[cell.variant] * random.uniform(0.9, 1.1)
            curve = [
                {"epoch": float(epoch), "train_error": end + 1 / (1 + epoch), "test_error": end}
                for epoch in range(points)
            ]
            metrics = {"train_error": end, "test_error": 1.1 * end, "constant_error": 0.09}
            folder = runs_dir / "tensor_rank" / cell.run_key
            folder.mkdir(parents=True)
            write_record(folder, record_of(cell, "tensor_rank", metrics=metrics, curve=curve))
            axes = (cell.variant, cell.model.rank, cell.data.target_class, cell.seed)
            folders[axes] = folder
        return folders

    return write
