"""The main job as a user runs it."""

import json
import time

import forked
import pandas as pd
import pytest
import torch
from hooked import after_intervals

from bench.cli import main
from bench.store.results import Results, load_runs

SMALL = ["model=cp", "classes=[0,6]", "ranks=[1,5]", "seeds=[0]", "trainer.max_epochs=400"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Return a folder with the runs of SMALL."""
    runs = tmp_path_factory.mktemp("digits") / "runs"
    with pytest.raises(SystemExit):
        main(["bench", "tensor_rank", *SMALL, f"runs_dir={runs}"])
    return runs


@pytest.mark.slow
def test_original_digits_are_fitted_and_randomized_ones_are_not(rankbench, digits):
    code, out, _ = rankbench("bench", "tensor_rank", *SMALL, f"runs_dir={digits}")
    assert code == 0
    assert "| original | 5 |" in out
    assert f"figure: {digits}/tensor_rank/figure.png" in out
    assert (digits / "tensor_rank" / "figure.png").read_bytes().startswith(b"\x89PNG")
    frame = load_runs(digits, "tensor_rank")
    assert len(frame) == 12
    assert (frame.status == "max_steps").all()
    errors = frame[frame["model.rank"] == 5].groupby("variant").train_error.mean()
    assert errors["original"] < errors[["random_images", "random_labels"]].min() / 3
    assert (frame[frame.variant != "original"].train_error > 0.5 * frame.constant_error.min()).all()


@pytest.mark.slow
def test_a_second_call_does_no_training(rankbench, digits):
    before = {path: path.stat().st_mtime_ns for path in digits.glob("tensor_rank/*/record.json")}
    start = time.monotonic()
    code, out, error = rankbench("bench", "tensor_rank", *SMALL, f"runs_dir={digits}")
    assert time.monotonic() - start < 10
    assert code == 0
    assert "12 cells, 0 to run" in error
    assert "| original | 5 |" in out
    after = {path: path.stat().st_mtime_ns for path in digits.glob("tensor_rank/*/record.json")}
    assert before == after


@pytest.mark.slow
def test_everything_is_rebuilt_from_the_records(rankbench, digits):
    where = f"runs_dir={digits}"
    code, out, _ = rankbench(
        "compare", "tensor_rank", "--by", "variant", "--metric", "train_error", where
    )
    assert code == 0
    assert "random_labels vs original" in out
    code, out, _ = rankbench("runs", "--verify", where)
    assert code == 0
    assert "12 runs verified, 0 problems" in out
    code, out, _ = rankbench("table", "tensor_rank", "--format", "csv", where)
    assert code == 0
    assert len(out.splitlines()) == 1 + 6
    results = digits.parent / "results"
    code, out, _ = rankbench("figure", "tensor_rank", where, f"results_dir={results}")
    assert code == 0
    assert out.strip() == str(results / "tensor_rank" / "figure.png")
    names = {path.name for path in (results / "tensor_rank").iterdir()}
    tables = {"table.md", "table.csv", "table.tex", "figure.png", "figure.svg"}
    assert names == tables | {"runs.parquet", "curves.parquet", "PROVENANCE.md"}
    stored = Results.from_folder(results / "tensor_rank")
    pd.testing.assert_frame_equal(stored.frame, load_runs(digits, "tensor_rank"))
    provenance = (results / "tensor_rank" / "PROVENANCE.md").read_text()
    assert "rankbench bench tensor_rank model=cp 'classes=[0,6]'" in provenance
    assert str(digits) not in provenance  # a path of this machine
    assert f"torch {torch.__version__.split('+')[0]}" in provenance
    assert "12 max_steps" in provenance


@pytest.mark.slow
def test_failed_cells_are_shown_as_missing_and_run_again(rankbench, digits):
    path = next(digits.glob("tensor_rank/*/record.json"))
    good = json.loads(path.read_text())
    path.write_text(json.dumps({**good, "status": "failed"}))
    _, out, _ = rankbench("table", "tensor_rank", f"runs_dir={digits}")
    assert "1/2" in out
    code, out, error = rankbench("bench", "tensor_rank", *SMALL, f"runs_dir={digits}")
    assert code == 0
    assert "12 cells, 1 to run" in error
    assert "1/2" not in out
    again = json.loads(path.read_text())
    assert again["attempt"] == 2
    assert again["metrics"] == good["metrics"]  # trained alone this time, not in its stack


@pytest.mark.slow
def test_a_multirun_runs_every_combination(rankbench, tmp_path):
    overrides = ["model.rank=1,2", "trainer.max_epochs=1", f"runs_dir={tmp_path / 'runs'}"]
    code, _, _ = rankbench("run", "-m", *overrides)
    assert code == 0
    frame = load_runs(tmp_path / "runs", "single")
    assert sorted(frame["model.rank"]) == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "otherwise", [[], ["execution.threads=2", "sweep.jobs=2"], ["seeds=[0,1]"]], ids=str
)  # other threads and processes, and other cells beside them
def test_an_interrupted_benchmark_ends_with_the_same_numbers(
    rankbench, tmp_path, monkeypatch, otherwise
):
    overrides = ["model=cp", "classes=[1]", "ranks=[2]", "seeds=[0]", "trainer.max_epochs=60"]
    overrides += ["trainer.checkpoint_every_s=0", "variants=[original,random_labels]"]
    overrides += ["trainer.log_every_n_epochs=20"]
    cut = [*overrides, f"runs_dir={tmp_path / 'cut'}"]
    rankbench("bench", "tensor_rank", *overrides, f"runs_dir={tmp_path / 'straight'}")
    with monkeypatch.context() as patch:
        after_intervals(patch, _cut_after(2))
        code, _, error = rankbench("bench", "tensor_rank", *cut)
    assert code == 130
    assert len(list(tmp_path.glob("cut/tensor_rank/.stacks/*/*.ckpt"))) == 1
    assert "goes on from here" in error
    assert set(load_runs(tmp_path / "cut").status) == {"stopped"}
    code, _, _ = rankbench("bench", "tensor_rank", *cut, *otherwise)
    assert code == 0
    straight, resumed = (load_runs(tmp_path / name, "tensor_rank") for name in ("straight", "cut"))
    resumed = resumed.loc[straight.index]
    numbers = ["train_error", "test_error", "train_loss", "epoch"]
    pd.testing.assert_frame_equal(straight[numbers], resumed[numbers], check_exact=True)
    assert (resumed.attempt == 2).all()
    for key in straight.index:
        weights = [(tmp_path / n / "tensor_rank" / key / "model.pt") for n in ("straight", "cut")]
        assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.slow
@pytest.mark.real_data
def test_mnist_runs_end_to_end(rankbench, tmp_path):
    code, out, _ = rankbench(
        "bench",
        "tensor_rank",
        "model=cp",
        "data=mnist",
        "classes=[6]",
        "ranks=[1,2]",
        "seeds=[0]",
        "trainer.max_epochs=60",
        f"runs_dir={tmp_path}",
    )
    assert code == 0
    assert "published train error" in out
    frame = load_runs(tmp_path, "tensor_rank")
    errors = frame.groupby(["variant", "model.rank"]).train_error.mean()
    assert errors["original"].max() < 0.04  # the label's variance is 0.089
    assert errors["random_labels"].min() > 0.08
    assert errors["random_images"].min() > 0.08
    assert frame.loc[frame.variant == "original", "test_error"].max() < 0.045


@pytest.mark.slow
@pytest.mark.real_data
def test_a_killed_mnist_stack_goes_on_and_records_each_fit_once(tmp_path):
    overrides = ["data=mnist", "classes=[6]", "ranks=[1,2]", "seeds=[0]", "trainer.max_epochs=20"]
    overrides += ["variants=[original,random_labels]", "trainer.checkpoint_every_s=0", "model=cp"]
    overrides += ["trainer.log_every_n_epochs=5", "tracking.mode=disabled"]
    command = ["bench", "tensor_rank", *overrides]
    process = forked.start([*command, f"runs_dir={tmp_path / 'killed'}"], tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("killed/tensor_rank/.stacks/*/*.ckpt")):
        assert time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.05)
    process.kill()
    process.join()
    assert not list(tmp_path.glob("killed/tensor_rank/*/record.json"))
    for name in ("killed", "straight"):
        code, output = forked.run([*command, f"runs_dir={tmp_path / name}"], tmp_path)
        assert code == 0, output
    resumed, straight = (
        load_runs(tmp_path / name, "tensor_rank").sort_index() for name in ("killed", "straight")
    )
    assert len(resumed) == 4
    assert (resumed.attempt == 2).all()
    numbers = ["train_error", "test_error", "train_loss", "epoch"]
    pd.testing.assert_frame_equal(straight[numbers], resumed[numbers], check_exact=True)
    assert not list(tmp_path.glob("killed/tensor_rank/.stacks/*/*.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["*.ckpt", "stack.json"])
def test_a_damaged_checkpoint_is_not_used(rankbench, tmp_path, monkeypatch, damaged):
    overrides = ["model=cp", "classes=[1]", "ranks=[2]", "seeds=[0]", "variants=[original]"]
    overrides += ["trainer.max_epochs=60", "trainer.checkpoint_every_s=0", f"runs_dir={tmp_path}"]
    overrides += ["trainer.log_every_n_epochs=20"]
    with monkeypatch.context() as patch:
        after_intervals(patch, _cut_after(2))
        assert rankbench("bench", "tensor_rank", *overrides)[0] == 130
    (path,) = tmp_path.glob(f"tensor_rank/.stacks/*/{damaged}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, _, _ = rankbench("bench", "tensor_rank", *overrides)
    assert code == 0
    assert load_runs(tmp_path, "tensor_rank").status.tolist() == ["max_steps"]


def _cut_after(intervals):
    """Return a hook that interrupts the training at an interval's end."""
    seen = []

    def cut(learner):
        seen.append(1)
        if len(seen) == intervals:
            raise KeyboardInterrupt

    return cut
