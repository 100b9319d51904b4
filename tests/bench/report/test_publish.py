"""Merging results, keeping curves, and where runs come from."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.report import publish as publishing
from bench.report.publish import provenance, publish
from bench.report.report_config import ReportConfig
from bench.store.results import CURVES_FILE, Results

CONFIG = ReportConfig(
    title="A title.",
    section="data.name",
    rows=("variant", "model.rank"),
    over=("seed",),
    metrics=("train_error",),
    x="model.rank",
    hue="variant",
    curves=("epoch", "train_"),
)


def results(keys, seeds, status="max_steps", error=0.1, commit="a" * 40):
    frame = pd.DataFrame(
        {
            "benchmark": "mine", "status": status, "attempt": 1.0, "wall_time_s": 7200.0,
            "stacked_with": 2.0, "created": "2026-01-01T00:00:00+00:00", "commit": commit,
            "dirty": False, "versions": "torch 2", "host": "system Linux", "command": "rankbench",
            "variant": "original", "seed": seeds, "data.name": "digits", "model.rank": 1,
            "train_error": error,
        },
        index=pd.Index(keys, name="run_key"),
    )  # fmt: skip
    points = [(key, epoch, error, error) for key in keys for epoch in range(3)]
    names = ["run_key", "epoch", "train_error", "other"]
    return Results(frame, pd.DataFrame(points, columns=names))


def test_the_newer_run_of_a_configuration_replaces_the_older():
    merged = results(["a", "b"], [0, 1]) | results(["c"], [1], error=0.5)
    assert merged.frame.train_error.to_dict() == {"a": 0.1, "c": 0.5}
    assert {*merged.curves.run_key} == {"a", "c"}


def test_a_planned_run_replaces_no_recorded_one():
    planned = results(["c", "d"], [1, 2], status="missing", error=np.nan)
    merged = results(["a", "b"], [0, 1]) | planned
    assert merged.frame.status.to_dict() == {"a": "max_steps", "b": "max_steps", "d": "missing"}


def test_large_curves_are_kept_as_far_as_the_figure_shows_them(tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    publish(results(["a"], [0]), CONFIG, folder)
    assert [*Results.from_folder(folder).curves] == ["run_key", "epoch", "train_error", "other"]
    monkeypatch.setattr(publishing, "LARGEST_CURVES", 10)
    publish(results(["a"], [0]), CONFIG, folder)
    assert [*Results.from_folder(folder).curves] == ["run_key", "epoch", "train_error"]
    publish(results(["a"], [0]), replace(CONFIG, curves=()), folder)
    assert not (folder / CURVES_FILE).exists()


def test_what_was_read_is_what_was_written(tmp_path):
    written = results(["a", "b"], [0, 1], error=0.1 + 1e-16)
    publish(written, CONFIG, tmp_path / "mine")
    read = Results.from_folder(tmp_path / "mine")
    pd.testing.assert_frame_equal(read.frame, written.frame, check_index_type=False)
    pd.testing.assert_frame_equal(read.curves, written.curves)


def test_provenance_counts_each_stack_once_and_names_every_commit():
    both = results(["a", "b"], [0, 1]) | results(["c"], [2], commit="b" * 40)
    text = provenance(both.frame.assign(dirty=[False, False, True]), "mine")
    assert f"- `{'a' * 40}`\n- `{'b' * 40} (changed)`" in text
    assert "3.00 hours in all" in text  # three runs of two hours, each in a stack of two
    assert "- 3 max_steps" in text


def test_runs_of_an_installed_package_have_no_commit():
    frame = results(["a", "b"], [0, 1], commit=None).frame.assign(dirty=None)
    assert "**Commit**\n\n- not recorded\n" in provenance(frame, "mine")


def test_nothing_is_written_without_runs(tmp_path):
    with pytest.raises(ValueError, match="without recorded runs"):
        publish(results(["a"], [0], status="missing"), CONFIG, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
