"""Completions of least norm: what makes each the minimum, and what they are refused for."""

import pytest
import torch

from bench.core.errors import UserError
from bench.core.status import Status
from bench.models.minimum_norm import LeastNormConfig, NuclearNormConfig
from bench.plan import check, plan_run
from data_prep.problems import CompletionConfig, LossConfig, MeasurementConfig, TargetConfig


def problem(count, kind="entries", family="matrix", dims=(12, 10), rank=2, seed=0):
    target = TargetConfig(family=family, mode_dims=dims, rank=rank)
    measurements = MeasurementConfig(count=count, kind=kind)
    data = CompletionConfig(name="test", target=target, measurements=measurements)
    return data.problem(seed, LossConfig(), torch.float64)


@pytest.mark.parametrize("count", [40, 70, 119])
def test_the_least_nuclear_norm_has_a_dual_certificate(count):
    """Y on the observed entries with spectral norm 1 and <Y, X> the nuclear norm proves it."""
    given = problem(count)
    solution, converged = NuclearNormConfig().solve(given)
    assert converged
    torch.testing.assert_close(given.operator(solution), given.values, rtol=0, atol=1e-12)
    left, values, right = torch.linalg.svd(solution, full_matrices=False)
    rank = int((values > 1e-4 * values[0]).sum())
    left, right = left[:, :rank], right[:rank]
    # Subgradients are left @ right + W with W orthogonal to both and of spectral norm at most 1:
    # the least W that moves the sum onto the observed entries.
    outside = torch.ones(solution.numel(), dtype=torch.float64)
    outside[given.operator.indices] = 0
    outside = outside.view_as(solution).bool()
    basis = torch.eye(solution.numel(), dtype=torch.float64).view(-1, *solution.shape)
    free = basis - left @ left.T @ basis - basis @ right.T @ right
    free = free + left @ left.T @ basis @ right.T @ right
    found = torch.linalg.pinv(free[:, outside].T) @ -(left @ right)[outside]
    rest = torch.einsum("k,kij->ij", found, free)
    assert (left @ right + rest)[outside].abs().max() < 1e-3
    assert torch.linalg.matrix_norm(rest, 2) < 1 + 1e-3


def test_enough_entries_give_the_matrix_back_and_few_one_of_less_norm():
    nuclear = {count: NuclearNormConfig().solve(problem(count))[0] for count in (30, 110)}
    target = problem(30).target
    assert problem(110).reconstruction_error(nuclear[110]) < 1e-4
    norms = [torch.linalg.matrix_norm(each, "nuc") for each in (nuclear[30], target)]
    assert norms[0] < 0.95 * norms[1]


@pytest.mark.parametrize("kind", ["entries", "gaussian"])
def test_the_least_norm_is_orthogonal_to_what_no_measurement_sees(kind):
    given = problem(20, kind, "cp", (4, 4, 4))
    solution, _ = LeastNormConfig().solve(given)
    torch.testing.assert_close(given.operator(solution), given.values)
    basis = torch.eye(64, dtype=torch.float64).view(64, 4, 4, 4)
    map_of_all = given.operator(basis).T  # (measurements, entries)
    unseen = torch.eye(64, dtype=torch.float64) - torch.linalg.pinv(map_of_all) @ map_of_all
    torch.testing.assert_close(unseen @ solution.flatten(), torch.zeros(64, dtype=torch.float64))


def test_a_problem_is_solved_and_measured_as_one_that_was_trained():
    words = ["data=matrix_completion", "data.target.mode_dims=[12,12]", "data.target.rank=1"]
    words += ["data.measurements.count=120", "model=nuclear_norm", "learner=solver"]
    (cell,) = plan_run(words).cells
    check([cell], 1.0)
    learner = cell.learner.build([cell])
    learner.fit([])
    (outcome,) = learner.run_log.outcomes
    assert outcome.metrics["recovered"] == outcome.metrics["numerical_rank"] == 1
    assert outcome.metrics["reconstruction_error"] < 1e-4
    assert learner.share_done() == 1
    given = cell.data.problem(cell.seed, LossConfig(), torch.float64)
    torch.testing.assert_close(outcome.weights["solution"], cell.model.solve(given)[0])


@pytest.mark.parametrize(("most", "status"), [(3, Status.MAX_STEPS), (20_000, Status.CONVERGED)])
def test_a_solution_that_is_not_exact_enough_is_not_called_converged(most, status, monkeypatch):
    monkeypatch.setattr("bench.models.minimum_norm.MOST_ITERATIONS", most)
    words = ["data=matrix_completion", "data.target.mode_dims=[12,12]", "data.target.rank=1"]
    words += ["data.measurements.count=120", "model=nuclear_norm", "learner=solver"]
    (cell,) = plan_run(words).cells
    learner = cell.learner.build([cell])
    learner.fit([])
    assert learner.run_log.outcomes[0].status is status


def test_a_tensor_has_no_nuclear_norm_here():
    words = ["data=cp_completion", "model=nuclear_norm", "learner=solver"]
    with pytest.raises(UserError, match="two modes; choose model=least_norm"):
        check(plan_run(words).cells, 1.0)
    with pytest.raises(UserError, match=r"CPConfig with learner=solver: expected a Solver"):
        plan_run(["data=cp_completion", "model=cp", "learner=solver"])
