"""The benchmark `pathfinder` as a user runs it, on few small images."""

import pytest

from bench.core.settings import identity
from bench.plan import plan_run
from bench.store.results import load_runs

SMALL = [
    "data.train=64",
    "data.test=64",
    "lengths=[2,4]",
    "seeds=[0,1]",
    "trainer.max_epochs=2",
    "tracking.mode=disabled",
]


@pytest.mark.slow
def test_lengths_and_coefficients_stand_side_by_side(rankbench, tmp_path):
    places = [f"runs_dir={tmp_path}", f"data.root={tmp_path}"]
    code, out, error = rankbench("bench", "pathfinder", *SMALL, *places)
    assert code == 0
    assert "warning" not in error
    assert "| 0.0 | 4 |" in out
    assert (tmp_path / "pathfinder" / "figure.png").read_bytes().startswith(b"\x89PNG")
    frame = load_runs(tmp_path, "pathfinder")
    assert len(frame) == 8
    assert (frame.covers == 1).all()
    assert frame.generalization_gap.equals(frame.train_accuracy - frame.test_accuracy)
    by = ["--by", "coefficient", "--metric", "test_accuracy"]
    code, out, _ = rankbench("compare", "pathfinder", *by, places[0])
    assert code == 0
    assert out.count(" vs 0.0") == 2


@pytest.mark.parametrize(
    ("benchmark", "train", "shape"),
    [("pathfinder", 10_000, (150, 150)), ("is_same_class", 5_000, (224, 224))],
)
def test_the_published_experiment_is_the_published_setting(benchmark, train, shape):
    (cell,) = plan_run([f"experiment={benchmark}/published"]).cells
    assert (cell.data.train, cell.data.test) == (train, 10_000)
    assert cell.data.image_shape == shape
    assert (cell.model.name, cell.model.depth) == ("resnet", 18)
    assert cell.optimizer.arguments == {"lr": 0.01, "momentum": 0.9}
    assert (cell.learner.batch_size, cell.learner.patience) == (64, 21)
    assert cell.trainer.arguments == {"max_epochs": 150}
    given = identity(cell.regularizer)
    assert given.pop("random_roles", False) == (benchmark == "is_same_class")
    assert given == {"name": cell.regularizer.name}
    assert cell.data.standardize
    assert cell.data.drawn_labels
    if benchmark == "is_same_class":
        assert cell.data.self_pairs
        assert cell.data.channels == cell.model.channels == 3
    else:
        assert (cell.data.scene.start_border, cell.data.scene.reduced) == (54, True)
        assert cell.model.stem_start == "default"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("lengths=[30]", "lower data.scene.length"),
        ("data.scene.gap=0.1", "raise data.scene.gap"),
        ("data.test=63", "multiple of 2"),
        ("coefficients=[-1]", "greater than or equal to 0"),
        ("data.scene.lenght=3", "lenght"),
        ("data.root=/dev/null", "execution.root"),
    ],
)
def test_bad_input_is_one_line(rankbench, tmp_path, override, said):
    places = [f"runs_dir={tmp_path}", f"data.root={tmp_path}"]
    code, _, error = rankbench("bench", "pathfinder", *SMALL, *places, override)
    assert code == 2
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "pathfinder" / "figure.png").exists()
