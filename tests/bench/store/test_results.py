"""The one reader: each record once, merging by key, and the way through a results folder."""

import json
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from made_up import record_of

from bench.core.errors import UserError
from bench.core.status import Status
from bench.plan import plan_benchmark
from bench.store.record import write_plan, write_record
from bench.store.results import (
    CURVES_FILE,
    MISSING,
    RUNS_FILE,
    Results,
    config_columns,
    load_runs,
    settings,
)

pytestmark = pytest.mark.usefixtures("toy_config")


def write(runs_dir, cells, benchmark="toy", **changes):
    """Write made-up records."""
    for cell in cells:
        folder = runs_dir / benchmark / cell.run_key
        folder.mkdir(parents=True, exist_ok=True)
        write_record(folder, record_of(cell, benchmark, **changes))


def plan(runs_dir, cells, command="rankbench bench toy"):
    """Write a plan."""
    write_plan(runs_dir / "toy", command, {cell.run_key: cell.config for cell in cells})


@pytest.fixture
def cells():
    return plan_benchmark("toy", []).cells


def test_a_row_says_what_was_asked_for_what_came_out_and_where_from(tmp_path, cells):
    write(tmp_path, cells[:1], metrics={"train_error": 0.5, "test_error": None})
    (row,) = Results.from_runs(tmp_path).frame.to_dict("records")
    assert row["model.name"] == "toy"
    assert row["model.rank"] == 1
    assert row["variant"] == "original"
    assert row["status"] == "max_steps"
    assert row["train_error"] == 0.5
    assert row["test_error"] != row["test_error"]
    assert row["commit"] == "0" * 40
    assert row["dirty"] is False
    assert row["versions"] == "python 3.11.0, rankbench 0.2.0"
    assert "instruction_sets AVX2, threads 1" in row["host"]
    assert row["command"] == "rankbench bench toy"
    assert "commit" not in config_columns(Results.from_runs(tmp_path).frame)


def test_planned_runs_without_a_record_are_missing(tmp_path, cells):
    plan(tmp_path, cells, "rankbench bench toy ranks=[1,2,3]")
    write(tmp_path, cells[:2])
    results = Results.from_runs(tmp_path, "toy")
    keys = [cell.run_key for cell in cells]
    assert list(results.frame.index) == sorted(keys)
    assert results.frame.status[keys].tolist() == ["max_steps"] * 2 + [MISSING] * 4
    assert results.frame.command[keys[-1]] == "rankbench bench toy ranks=[1,2,3]"
    assert results.finished() == {cell.run_key for cell in cells[:2]}
    assert results.damaged == ()


def test_curves_are_one_long_frame(tmp_path, cells):
    write(tmp_path, cells[:2])
    curves = Results.from_runs(tmp_path, "toy").curves
    assert list(curves) == ["run_key", "epoch", "train_error"]
    assert set(curves.run_key) == {cell.run_key for cell in cells[:2]}
    one = curves[curves.run_key == cells[0].run_key]
    assert one.epoch.tolist() == [0, 1, 2]
    assert one.train_error.tolist() == [1, 1 / 2, 1 / 3]


def test_each_plan_and_each_record_is_opened_once(tmp_path, cells):
    plan(tmp_path, cells)
    write(tmp_path, cells)
    opened = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    Results.from_runs(tmp_path, "toy")
    ours = [path for path in opened if path.startswith(str(tmp_path)) and path.endswith(".json")]
    assert len(ours) == len(set(ours)) == len(cells) + 1


def test_a_results_folder_gives_back_what_was_written(tmp_path, cells):
    plan(tmp_path, cells)
    write(tmp_path, cells[:4])
    results = Results.from_runs(tmp_path, "toy")
    results.write(tmp_path)
    again = Results.from_folder(tmp_path)
    pd.testing.assert_frame_equal(again.frame, results.frame)
    pd.testing.assert_frame_equal(again.curves, results.curves)
    (tmp_path / "curves.parquet").unlink()
    assert Results.from_folder(tmp_path).curves.empty
    with pytest.raises(UserError, match=r"runs\.parquet"):
        Results.from_folder(tmp_path / "nothing")


def test_a_merge_is_what_one_folder_of_all_runs_would_be(tmp_path, cells):
    """Oracle: the same records in one folder."""
    for name, chosen in (("a", cells[:4]), ("b", cells[4:]), ("all", cells)):
        write(tmp_path / name, chosen)
    merged = Results.from_runs(tmp_path / "a") | Results.from_runs(tmp_path / "b")
    whole = Results.from_runs(tmp_path / "all")
    pd.testing.assert_frame_equal(merged.frame.sort_index(), whole.frame.sort_index())
    by = ["run_key", "epoch"]
    pd.testing.assert_frame_equal(
        merged.curves.sort_values(by, ignore_index=True),
        whole.curves.sort_values(by, ignore_index=True),
    )


def test_in_a_merge_the_right_one_wins_and_a_recorded_run_beats_a_missing_one(tmp_path, cells):
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, cells[:2], metrics={"train_error": 1.0})
    write(second, cells[1:3], metrics={"train_error": 2.0})
    plan(second, cells[:4])
    plan(first, cells[2:4])
    one, two = Results.from_runs(first), Results.from_runs(second)
    merged = (one | two).frame.loc[[cell.run_key for cell in cells[:4]]]
    assert merged.train_error.tolist()[:3] == [1.0, 2.0, 2.0]
    assert merged.status.tolist() == ["max_steps"] * 3 + [MISSING]
    other = (two | one).frame.loc[[cell.run_key for cell in cells[:4]]]
    assert other.train_error.tolist()[:3] == [1.0, 1.0, 2.0]
    curves = (one | two).curves
    assert (curves.run_key.value_counts() == 3).all()
    assert curves.run_key.nunique() == 3


def test_merging_with_nothing_changes_nothing(tmp_path, cells):
    write(tmp_path / "a", cells)
    results, nothing = Results.from_runs(tmp_path / "a"), Results.from_runs(tmp_path / "b")
    for merged in (results | nothing, nothing | results):
        pd.testing.assert_frame_equal(merged.frame, results.frame)
        pd.testing.assert_frame_equal(merged.curves, results.curves)
    assert (nothing | nothing).frame.empty


def test_a_damaged_file_is_left_out_by_name(tmp_path, cells):
    write(tmp_path, cells[:2])
    plan(tmp_path, cells[:2])
    (tmp_path / "toy" / cells[0].run_key / "record.json").write_text("{")
    (path,) = (tmp_path / "toy" / ".plans").iterdir()
    path.write_text(json.dumps({"command": 1, "cells": {}}))
    results = Results.from_runs(tmp_path, "toy")
    assert list(results.frame.index) == [cells[1].run_key]
    assert [str(tmp_path) in line for line in results.damaged] == [True, True]


def test_settings_divide_runs_that_differ_otherwise(tmp_path, cells):
    write(tmp_path, cells)
    frame = load_runs(tmp_path)
    assert [setting for setting, _ in settings(frame, ["model.rank", "seed"])] == [{}]
    apart = [setting for setting, _ in settings(frame, ["seed"])]
    assert apart == [{"model.rank": 1}, {"model.rank": 2}, {"model.rank": 3}]


def test_columns_of_several_types_are_text(tmp_path, cells):
    (cell, other) = cells[:2]
    write(tmp_path, cells[:2])
    for each, value in ((cell, "wide"), (other, 7)):
        config = {**each.config, "model": {**each.config["model"], "width": value}}
        write_record(tmp_path / "toy" / each.run_key, record_of(each, "toy", config=config))
    results = Results.from_runs(tmp_path)
    assert results.frame["model.width"].tolist() == ["wide", "7"]
    results.write(tmp_path)


def test_reading_needs_none_of_what_trains():
    code = "import sys, bench.store.results, bench.commands.runs; "
    code += "print({'torch', 'pytorch_lightning', 'wandb', 'matplotlib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_a_failed_run_is_not_finished(tmp_path, cells):
    write(tmp_path, cells[:1], status=Status.FAILED, error="x")
    assert Results.from_runs(tmp_path).finished() == set()
    assert replace(Results.from_runs(tmp_path), damaged=("a",)).damaged == ("a",)


@pytest.mark.parametrize("name", [RUNS_FILE, CURVES_FILE])
def test_a_damaged_file_of_results_is_named(name, tmp_path, made_up_runs):
    made_up_runs(tmp_path / "runs")
    Results.from_runs(tmp_path / "runs").write(tmp_path)
    (tmp_path / name).write_text("no Parquet")
    with pytest.raises(UserError, match="expected whole Parquet files"):
        Results.from_folder(tmp_path)


@pytest.mark.parametrize("name", [RUNS_FILE, CURVES_FILE])
def test_a_flipped_byte_of_results_changes_no_number_unnoticed(name, tmp_path, made_up_runs):
    made_up_runs(tmp_path / "runs", ranks=(1,))
    sound = Results.from_runs(tmp_path / "runs")
    sound.write(tmp_path)
    content = (tmp_path / name).read_bytes()
    values = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # before the footer
    refused = 0
    for position in range(4, values, values // 50):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        (tmp_path / name).write_bytes(flipped)
        try:
            read = Results.from_folder(tmp_path)
        except UserError:
            refused += 1
            continue
        pd.testing.assert_frame_equal(read.frame, sound.frame, check_exact=True)
        pd.testing.assert_frame_equal(read.curves, sound.curves, check_exact=True)
    assert refused > 25
