"""The benchmark `is_same_class` as a user runs it, on the 8 x 8 digits."""

import pytest

from bench.plan import plan_benchmark
from bench.report.report_config import ReportConfig
from bench.store.results import load_runs

SMALL = [
    "data.images=digits",
    "data.image_size=8",
    "data.canvas=[8,64]",
    "data.train=128",
    "data.test=64",
    "distances=[0,40]",
    "seeds=[0,1]",
    "model.widths=[8,8,8,8]",
    "trainer.max_epochs=3",
    "tracking.mode=disabled",
]


@pytest.mark.slow
def test_distances_and_coefficients_stand_side_by_side(rankbench, tmp_path):
    where = f"runs_dir={tmp_path}"
    code, out, error = rankbench("bench", "is_same_class", *SMALL, where)
    assert code == 0
    assert "warning" not in error
    assert "| 0.0 | 40 |" in out
    assert "| 1.0 | 0 |" in out
    frame = load_runs(tmp_path, "is_same_class")
    assert len(frame) == 8
    assert (frame.covers == 1).all()
    assert (frame.receptive_field_width == 64).all()
    code, out, _ = rankbench(
        *("compare", "is_same_class", "--by", "coefficient", "--metric", "test_accuracy", where)
    )
    assert code == 0
    assert out.count("1.0 vs 0.0") == 2
    code, _, error = rankbench("bench", "is_same_class", *SMALL, where)
    assert code == 0
    assert "8 cells, 0 to run" in error


@pytest.mark.slow
def test_a_network_that_cannot_see_both_images_says_so(rankbench, tmp_path):
    blind = ["model.strides=[1,1,1,1]", "model.stem=[4,3,1]", "distances=[40]", "seeds=[0]"]
    code, _, error = rankbench(
        "bench", "is_same_class", *SMALL, *blind, "coefficients=[0.0]", f"runs_dir={tmp_path}"
    )
    assert code == 0
    assert "warning: the network's receptive field is 8 x 19 pixels" in error


@pytest.mark.slow
def test_the_regularizer_s_forms_stand_side_by_side(rankbench, tmp_path):
    forms = [f"regularizer_forms/{name}" for name in ("plain", "published", "every_4", "differing")]
    small = [word for word in SMALL if not word.startswith(("distances", "trainer"))]
    code, out, _ = rankbench(
        *("bench", "regularizer_forms", f"case={','.join(forms)}", *small),
        *("data.distance=40", "trainer.max_epochs=2", f"runs_dir={tmp_path}"),
    )
    assert code == 0
    assert "runs 2/2" in out
    assert len(load_runs(tmp_path)) == 8


def test_each_experiment_trains_for_its_own_epochs(rankbench, tmp_path):
    small = [word for word in SMALL if not word.startswith(("distances", "trainer", "seeds"))]
    forms = "case=regularizer_forms/every_2,regularizer_forms/published"
    words = [forms, "data.distance=40", "seeds=[0]", "data.train=8", f"runs_dir={tmp_path}"]
    assert rankbench("bench", "regularizer_forms", *small, *words)[0] == 0
    frame = load_runs(tmp_path).set_index("regularizer.every")
    assert frame.epoch.to_dict() == frame["trainer.max_epochs"].to_dict() == {1: 40, 2: 64}


def test_the_published_experiment_is_the_grid_of_the_published_values():
    cells = plan_benchmark("is_same_class", ["experiment=is_same_class/published"]).cells
    grid = {(c.data.images, c.regularizer.coefficient, c.data.distance) for c in cells}
    assert set(ReportConfig.of("is_same_class").published_values.index) == grid
    assert {cell.model.depth for cell in cells} == {18}
    assert {(cell.data.train, cell.data.test) for cell in cells} == {(5_000, 10_000)}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distances=[60]", "a width of at least 76"),
        ("data.train=127", "multiple of 2"),
        ("coefficients=[-1]", "greater than or equal to 0"),
        ("data.images=imagenet", "cifar10"),
        ("model=resnet18 model.depth=50", "18 or 34"),
        ("model=cp", "learner=classification"),
        ("experiment=is_same_class/huge", "is_same_class/compact, is_same_class/compact_color"),
    ],
)
def test_bad_input_is_one_line(rankbench, tmp_path, override, said):
    model = [word for word in SMALL if not word.startswith("model") or "model=" not in override]
    code, _, error = rankbench(
        "bench", "is_same_class", *model, *override.split(), f"runs_dir={tmp_path}"
    )
    assert code == 2
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "is_same_class").exists()
