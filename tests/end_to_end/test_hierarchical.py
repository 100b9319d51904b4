"""The benchmark `hierarchical` as a user runs it."""

import pytest

from bench.store.results import load_runs

SMALL = [
    "classes=[6]",
    "widths=[2]",
    "seeds=[0]",
    "trainer.max_epochs=30",
    "trainer.log_every_n_epochs=15",
    "tracking.mode=disabled",
]


@pytest.mark.slow
def test_circuits_and_cp_predictors_stand_side_by_side(rankbench, tmp_path):
    code, out, _ = rankbench("bench", "hierarchical", *SMALL, f"runs_dir={tmp_path}")
    assert code == 0
    assert "| original | cp |" in out
    assert "| original | grid |" in out
    assert (tmp_path / "hierarchical" / "figure.png").read_bytes().startswith(b"\x89PNG")
    frame = load_runs(tmp_path, "hierarchical")
    assert len(frame) == 6
    assert (frame.status == "max_steps").all()
    errors = frame.groupby("variant").train_error.mean()
    assert errors["original"] < errors[["random_images", "random_labels"]].min() / 2
    code, out, _ = rankbench(
        "compare",
        "hierarchical",
        "--by",
        "variant",
        "--metric",
        "train_error",
        f"runs_dir={tmp_path}",
    )
    assert code == 0
    assert "random_labels vs original" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all_classes", "locality"])
def test_every_experiment_runs(rankbench, tmp_path, name):
    short = ["trainer.max_epochs=2", "trainer.log_every_n_epochs=1", "classes=[0]", "seeds=[0]"]
    code, out, _ = rankbench(
        "bench",
        "hierarchical",
        f"experiment=hierarchical/{name}",
        *short,
        "widths=[2]",
        "tracking.mode=disabled",
        f"runs_dir={tmp_path}",
    )
    assert code == 0
    assert "1/1" in out
    assert (tmp_path / "hierarchical" / "figure.svg").is_file()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trees=[oak]", "'grid'"),
        ("widths=[0]", "greater than or equal to 1"),
        ("coefficients=[-1]", "greater than or equal to 0"),
        ("learner.objective=all_classes", "classes=[0]"),
        ("learner.patch_sise=2", "patch_sise"),
        ("model.widht=2", "widht"),
        ("experiment=hierarchical/huge", "hierarchical/all_classes"),
    ],
)
def test_bad_input_is_one_line(rankbench, tmp_path, override, said):
    code, _, error = rankbench("bench", "hierarchical", override, f"runs_dir={tmp_path}")
    assert code == 2
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "hierarchical").exists()


def test_overlapping_patches_are_refused(rankbench, tmp_path):
    code, _, error = rankbench(
        "bench",
        "hierarchical",
        "coefficients=[1.0]",
        "learner.patch_size=4",
        f"runs_dir={tmp_path}",
    )
    assert code == 2
    assert "learner.patch_size=4" in error
