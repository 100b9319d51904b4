"""Recovery problems that are solved outright: baselines beside what gradient descent finds."""

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from bench.core.cell import Cell
from bench.core.errors import require
from bench.core.settings import settings
from bench.core.status import Status
from bench.learners.base import LearnerConfig, Outcome
from bench.learners.dynamics import ProblemSource, problem_values
from bench.learners.dynamics_measures import Errors
from bench.learners.interval import IntervalLearner, device_of
from bench.measures.ranks import numerical_rank
from data_prep.problems import LossConfig, RecoveryProblem


@runtime_checkable
class Solver(Protocol):
    """Settings of a model that is the solution of a problem."""

    def check(self, mode_dims: tuple[int, ...]) -> None:
        """Raise `UserError` for tensors of a shape that it has no solution for."""
        ...

    def solve(self, problem: RecoveryProblem) -> tuple[Tensor, bool]:
        """Return the solution, of the target's shape and dtype, and whether it is exact enough."""
        ...


@settings
class SolverConfig(LearnerConfig):
    """Settings of `configs/learner/solver.yaml`; in float64."""

    name: ClassVar[str] = "solver"
    step: ClassVar[str] = "iteration"
    accepts: ClassVar[dict[str, type]] = {"data": ProblemSource, "model": Solver}

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise `UserError` for a control, or a shape that a model has no solution for."""
        for cell in cells:
            device_of(cell)
            given = f"variant={cell.variant} of a generated problem"
            require(cell.variant == "original", given, "original")
            cell.model.check(cell.data.mode_dims)

    def stack_key(self, cell: Cell) -> str:
        """Return the run key: each problem is solved alone."""
        return cell.run_key

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes of a problem and some tensors of its size."""
        return 128.0 * problem_values(cells[0].data, LossConfig())  # of eight bytes each

    def build(self, cells: Sequence[Cell]) -> "Solution":
        """Return the learner of a cell."""
        return Solution(cells)


class Solution(IntervalLearner):
    """Solves the problem of one cell."""

    def train_interval(self) -> None:
        """Solve, then measure: errors, and of matrices the rank."""
        (cell,) = self.run_log.cells
        problem = cell.data.problem(cell.seed, LossConfig(), torch.float64)
        solution, converged = cell.model.solve(problem)
        errors = Errors(self, problem, cell.data)
        found = errors(None, problem, solution.unsqueeze(0))
        if solution.ndim == 2:
            found["numerical_rank"] = numerical_rank(torch.linalg.svdvals(solution))
        point = {"iteration": 1, **{name: float(value) for name, value in found.items()}}
        self.run_log.add_point(0, point)
        metrics = {**point, **errors.summary([point], 0)}
        status = Status.CONVERGED if converged else Status.MAX_STEPS
        self.run_log.end(0, Outcome(status, metrics, {"solution": solution}))

    def share_done(self) -> float:
        """Return whether it is done."""
        return float(not self.run_log.training())
