"""What people do with recorded runs: their own figures, comparisons, W&B's files."""

import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from bench.store.results import Results, load_runs

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
    assert (run.commit, run.dirty) == ("0" * 40, False)


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
    assert "random_images vs original" in out
    assert "effect size" in out
    assert "Hochberg's correction" in out
    code, out, _ = rankbench(*call, "--by", "variant", "--reference", "random_labels")
    assert code == 0
    assert "original vs random_labels" in out
    code, _, error = rankbench(*call, "--reference", "published")  # for digits nothing is
    assert code == 2
    assert "expected a setting for which values are published" in error


def test_experiments_are_compared_with_what_they_differ_in(made_up_runs, rankbench, tmp_path):
    for name in ("a", "b"):
        made_up_runs(tmp_path / name, seeds=[0] if name == "a" else [0, 1])
    for piece, folder in (("a", "my (old) results"), ("b", "my (old) results/more")):
        call = ["figure", "tensor_rank", f"runs_dir={tmp_path}/{piece}"]
        assert rankbench(*call, f"results_dir='{tmp_path}/{folder}'")[0] == 0
    call = ["compare", "tensor_rank", "--metric", "train_error", "--from", "results"]
    folder = f"results_dir='{tmp_path}/my (old) results'"
    code, out, _ = rankbench(*call, "--against", "more", "--format", "csv", folder)
    assert code == 0
    table = pd.read_csv(StringIO(out))
    assert set(table.comparison) == {"more vs tensor_rank"}
    assert set(table.pairs) == {2}  # two classes with the seed that both have
    code, _, error = rankbench(*call, "--against", "nothing", folder)
    assert (code, error.count("\n")) == (2, 1)
    assert "--against nothing: expected a recorded experiment of tensor_rank: more" in error


@pytest.mark.parametrize("form", ["markdown", "csv", "latex"])
def test_comparisons_have_the_forms_of_tables(form, made_up_runs, rankbench, tmp_path):
    made_up_runs(tmp_path)
    call = ["compare", "tensor_rank", "--by", "variant", "--metric", "train_error"]
    code, out, _ = rankbench(*call, "--format", form, f"runs_dir={tmp_path}")
    assert code == 0
    if form == "csv":
        table = pd.read_csv(StringIO(out))
        runs = load_runs(tmp_path)
        chosen = runs[runs["model.rank"] == 1].groupby("variant").train_error.mean()
        ratio = chosen["random_images"] / chosen["original"]
        assert table.ratio[0] == pytest.approx(ratio, rel=1e-12)
        assert table.units.unique().tolist() == [2]
    else:
        separator = {"markdown": " | ", "latex": " & "}[form]
        rows = [line for line in out.splitlines() if separator in line]
        assert len({line.count(separator) for line in rows}) == 1


def test_a_table_and_a_figure_of_some_runs(made_up_runs, rankbench, tmp_path):
    made_up_runs(tmp_path / "runs")
    folders = [f"runs_dir={tmp_path}/runs", f"results_dir={tmp_path}/results"]
    chosen = ["--where", "model.rank=5", "--where", "variant=original"]
    code, out, _ = rankbench("table", "tensor_rank", *chosen, *folders)
    assert (code, out.count("4/4"), out.count("random_images")) == (0, 1, 0)
    assert rankbench("figure", "tensor_rank", *chosen, *folders)[0] == 0
    assert rankbench("table", "tensor_rank", "--from", "results", *folders)[1] == out


@pytest.mark.parametrize("command", ["table", "figure", "report"])
def test_settings_that_a_command_does_not_read_are_refused(command, rankbench, tmp_path):
    name = [] if command == "report" else ["tensor_rank"]
    code, out, error = rankbench(command, *name, "model.rank=3", f"runs_dir={tmp_path}")
    assert (code, out) == (2, "")
    assert "model.rank=3: expected one of runs_dir, results_dir" in error
    assert error.count("\n") == 1


def test_results_grow_piece_by_piece(made_up_runs, rankbench, tmp_path):
    results = f"results_dir={tmp_path}/results"
    for piece, classes in (("a", [0]), ("b", [1]), ("whole", [0, 1])):
        made_up_runs(tmp_path / piece, classes=classes)
    for piece in ("a", "b", "b"):
        call = ["figure", "tensor_rank", "--add", f"runs_dir={tmp_path}/{piece}", results]
        assert rankbench(*call)[0] == 0
    merged = Results.from_folder(tmp_path / "results/tensor_rank")
    assert len(merged.frame) == 24
    assert merged.curves.run_key.value_counts().unique().tolist() == [3]
    code, table, _ = rankbench("table", "tensor_rank", "--from", "results", results)
    assert (code, table.count("4/4")) == (0, 6)


def test_a_figure_that_fails_leaves_the_results_as_they_were(
    made_up_runs, rankbench, tmp_path, monkeypatch
):
    made_up_runs(tmp_path / "runs")
    call = ["figure", "tensor_rank", f"runs_dir={tmp_path}/runs", f"results_dir={tmp_path}/results"]
    assert rankbench(*call)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "results/tensor_rank").iterdir()}
    assert {*before} == {
        "figure.png", "figure.svg", "table.md", "table.csv", "table.tex", "PROVENANCE.md",
        "runs.parquet", "curves.parquet",
    }  # fmt: skip
    monkeypatch.setattr("bench.report.figures.plot", lambda *arguments: 1 / 0)
    made_up_runs(tmp_path / "runs", seeds=[7])
    with pytest.raises(ZeroDivisionError):
        rankbench(*call)
    after = {path.name: path.read_bytes() for path in (tmp_path / "results/tensor_rank").iterdir()}
    assert after == before
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["tensor_rank"]


def test_published_results_are_compared_and_tabled_as_their_runs(made_up_runs, rankbench, tmp_path):
    made_up_runs(tmp_path / "runs")
    folders = [f"runs_dir={tmp_path}/runs", f"results_dir={tmp_path}/results"]
    assert rankbench("figure", "tensor_rank", *folders)[0] == 0
    for call in (["table"], ["compare", "--by", "variant", "--metric", "train_error"]):
        whole = [call[0], "tensor_rank", *call[1:], *folders]
        assert rankbench(*whole, "--from", "results") == rankbench(*whole)
    code, _, error = rankbench("table", "hierarchical", *folders, "--from", "results")
    assert code == 2
    assert "without runs.parquet" in error


@pytest.mark.slow
def test_a_table_from_wandb_s_files_is_the_local_one(rankbench, tmp_path):
    where = f"runs_dir={tmp_path}"
    grid = ["model=cp", "classes=[0,6]", "ranks=[1,5]", "seeds=[0]", "trainer.max_epochs=20"]
    code, _, _ = rankbench("bench", "tensor_rank", *grid, "optimizer.lr=0.5", where)
    assert code == 0
    steps = ["experiment=matrix_completion/quick", "seeds=[0,1]", "trainer.max_steps=500"]
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
    from bench.store.wandb_files import read_wandb_file

    made_up_runs(tmp_path)
    for _ in range(2):
        assert rankbench("figure", "tensor_rank", f"runs_dir={tmp_path}")[0] == 0
    (file,) = tmp_path.glob("tensor_rank/.summary/wandb/offline-run-*/run-*.wandb")
    stored, tries = read_wandb_file(file), 0
    # W&B's service may close the file later.
    while "table.nrows" not in stored["summary"] and tries < 100:
        time.sleep(0.1)
        stored, tries = read_wandb_file(file), tries + 1
    assert (stored["run"]["run_group"], stored["run"]["job_type"]) == ("tensor_rank", "summary")
    assert stored["summary"]["table.nrows"] == 6
    assert stored["summary"]["figure.format"] == "png"
