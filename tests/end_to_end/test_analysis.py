"""What people do with recorded runs: their own figures, comparisons, W&B's files."""

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from bench.report import load_runs

DOCS = Path(__file__).parents[2] / "docs"


def test_the_example_in_the_docs_draws_its_figure(made_up_runs, tmp_path):
    made_up_runs(tmp_path / "runs")
    command = [sys.executable, DOCS / "new_figure.py", tmp_path / "runs", tmp_path / "new.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "new.png").read_bytes().startswith(b"\x89PNG")
    runs = load_runs(tmp_path / "runs")
    chosen = runs[(runs.variant == "original") & (runs["model.rank"] == 5)]
    mean = (chosen.test_error - chosen.train_error).mean()
    assert f"{mean:.6f}" in done.stdout


def test_the_columns_are_as_documented(made_up_runs, tmp_path):
    folder = made_up_runs(tmp_path / "runs")["random_labels", 5, 1, 0]
    runs = load_runs(tmp_path / "runs")
    assert len(runs) == 24
    run = runs.loc[folder.name]
    assert (run["variant"], run["model.rank"], run["seed"]) == ("random_labels", 5, 0)
    assert (run.benchmark, run.status, run.attempt) == ("tensor_rank", "max_steps", 1)
    assert run.wandb_path == "wandb/offline-run-a"
    numbers = ["wall_time_s", "train_error", "test_error", "constant_error"]
    assert all(pd.api.types.is_float_dtype(runs[name]) for name in numbers)
    assert runs.attrs["damaged"] == []


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["--by", "colour", "--metric", "train_error"], "model.rank"),
        (["--by", "variant", "--metric", "loss"], "train_error, test_error, constant_error"),
        (["--by", "variant", "--metric", "train_error", "--reference", "mine"], "random_images"),
        (["--by", "seed", "--metric", "train_error", "--reference", "published"], "variant"),
        (["--metric", "constant_error", "--reference", "published"], "train_error, test_error"),
        (["--metric", "train_error"], "--by variant"),
        (["--by", "variant", "--metric", "train_error", "--where", "model.rank=3"], "1, 5"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_what_can(
    words, hint, made_up_runs, rankbench, tmp_path
):
    made_up_runs(tmp_path)
    code, out, error = rankbench("compare", "tensor_rank", *words, f"runs_dir={tmp_path}")
    assert (code, out) == (2, "")
    assert hint in error
    assert error.count("\n") == 1


def test_the_uses_of_compare(made_up_runs, rankbench, tmp_path):
    made_up_runs(tmp_path)
    call = ["compare", "tensor_rank", "--metric", "train_error", f"runs_dir={tmp_path}"]
    code, out, _ = rankbench(*call, "--by", "variant", "--where", "model.rank=5")
    assert code == 0
    assert "random_images - original" in out
    assert "effect size" in out
    assert "Benjamini-Hochberg" in out
    code, out, _ = rankbench(*call, "--by", "variant", "--reference", "random_labels")
    assert code == 0
    assert "original - random_labels" in out
    code, out, _ = rankbench(*call, "--reference", "published")  # for digits nothing is
    assert code == 1
    assert "no published value for this setting" in out


def test_published_results_are_compared_and_tabled_as_their_runs(made_up_runs, rankbench, tmp_path):
    made_up_runs(tmp_path / "runs")
    places = [f"runs_dir={tmp_path}/runs", f"results_dir={tmp_path}/results"]
    assert rankbench("figure", "tensor_rank", *places)[0] == 0
    for call in (["table"], ["compare", "--by", "variant", "--metric", "train_error"]):
        whole = [call[0], "tensor_rank", *call[1:], *places]
        assert rankbench(*whole, "--from", "results") == rankbench(*whole)
    code, _, error = rankbench("table", "hierarchical", *places, "--from", "results")
    assert code == 2
    assert "without runs.parquet" in error


@pytest.mark.slow
def test_a_table_from_wandb_s_files_is_the_local_one(rankbench, tmp_path):
    where = f"runs_dir={tmp_path}"
    grid = ["classes=[0,6]", "ranks=[1,5]", "seeds=[0]", "trainer.max_epochs=20"]
    code, _, _ = rankbench("bench", "tensor_rank", *grid, "learner.learning_rate=0.5", where)
    assert code == 0
    steps = ["preset=quick", "seeds=[0,1]", "trainer.max_steps=500"]
    assert rankbench("bench", "matrix_completion", *steps, where)[0] == 0
    for name in ("tensor_rank", "matrix_completion"):
        for form in ("markdown", "csv"):
            shown = ["table", name, "--format", form, where]
            local = rankbench(*shown)
            for record in tmp_path.glob(f"{name}/*/record.json"):
                record.rename(record.with_suffix(".away"))
            assert rankbench(*shown, "--from", "wandb") == local
            for record in tmp_path.glob(f"{name}/*/record.away"):
                record.rename(record.with_suffix(".json"))


@pytest.mark.slow
def test_figure_and_table_are_a_run_of_their_own(rankbench, made_up_runs, tmp_path):
    from bench.tracking.wandb_runs import read_wandb_file

    made_up_runs(tmp_path)
    for _ in range(2):
        assert rankbench("figure", "tensor_rank", f"runs_dir={tmp_path}")[0] == 0
    (file,) = tmp_path.glob("tensor_rank/.summary/wandb/offline-run-*/run-*.wandb")
    stored, tries = read_wandb_file(file), 0
    while stored["exit_code"] is None and tries < 100:  # W&B's service may close the file later
        time.sleep(0.1)
        stored, tries = read_wandb_file(file), tries + 1
    assert (stored["group"], stored["job_type"]) == ("tensor_rank", "summary")
    assert stored["summary"]["table.nrows"] == 6
    assert stored["summary"]["figure.format"] == "png"
