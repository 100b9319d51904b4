import pandas as pd

from bench.report.dynamics_figures import _by_repeat


def test_errors_of_repeats_are_averaged_at_equal_iterations_since_their_beginnings():
    """Of three repeats of 4 iterations each, and of a single run of 12."""
    settings = {"learner.milestone_period": [4, 1], "learner.milestone_repeats": [3, 1]}
    runs = pd.DataFrame(settings, index=["repeats", "single"])
    points = [(0, 1.0), (2, 0.6), (4, 0.3), (6, 0.2), (8, 0.1), (10, 0.07), (12, 0.02)]
    curves = pd.concat(
        pd.DataFrame(points, columns=["iteration", "reconstruction_error"]).assign(run_key=key)
        for key in runs.index
    ).reset_index(drop=True)
    counted = _by_repeat(runs, curves)
    means = counted.groupby(["run_key", "iteration"]).reconstruction_error.mean()
    assert means["repeats"].round(12).to_dict() == {2: 0.29, 4: 0.14}
    assert means["single"].to_dict() == dict(points)
