"""The dynamics benchmarks as a user runs them, where steps are far too large."""

import pytest

from bench.store.results import load_runs

BENCHMARKS = ["matrix_completion", "tensor_completion", "hierarchical_completion", "tubal_sensing"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BENCHMARKS, "theory"])
def test_a_benchmark_whose_runs_diverge_says_so(rankbench, tmp_path, name):
    places = [f"runs_dir={tmp_path}", f"results_dir={tmp_path / 'results'}"]
    large = [f"experiment={name}/quick", "optimizer.lr=1e9", "trainer.max_steps=50", "seeds=[0]"]
    code, out, error = rankbench("bench", name, *large, *places)
    assert code == 0, error
    diverged = load_runs(tmp_path, name).query("status == 'diverged'")
    assert len(diverged) > 0
    assert "(1 diverged)" in out
    assert (diverged.diverged_at <= 50).all()
    assert diverged.last_finite_loss.notna().all()
    assert (tmp_path / "results" / name / "figure.png").stat().st_size > 1000
