"""Completions of least norm: the convex rivals of factorizations, solved and not trained."""

from typing import ClassVar

import torch
from torch import Tensor

from bench.core.errors import require
from bench.core.settings import Settings, settings
from data_prep.problems import RecoveryProblem

TOLERANCE = 1e-6  # of the two residuals, relative to the solution's norm
MOST_ITERATIONS = 20_000


@settings
class LeastNormConfig(Settings):
    """Settings of `configs/model/least_norm.yaml`: the least Frobenius norm.

    The linear baseline of [NORM] and [TF]: linear in the measurements, and 0 wherever a completion
    problem observes nothing.
    """

    name: ClassVar[str] = "least_norm"

    def check(self, mode_dims: tuple[int, ...]) -> None:
        """Take tensors of any shape."""

    def solve(self, problem: RecoveryProblem) -> Tensor:
        """Return the tensor of least Frobenius norm that agrees with the measurements."""
        return problem.operator.least_norm(problem.values).view_as(problem.target)


@settings
class NuclearNormConfig(Settings):
    """Settings of `configs/model/nuclear_norm.yaml`: the least sum of singular values.

    Candès and Recht, *Exact matrix completion via convex optimization*, 2009; [NORM] asks whether
    gradient descent finds the same matrix.
    """

    name: ClassVar[str] = "nuclear_norm"

    def check(self, mode_dims: tuple[int, ...]) -> None:
        """Raise `UserError` unless the tensors are matrices."""
        given = f"model=nuclear_norm for a tensor of shape {list(mode_dims)}"
        require(len(mode_dims) == 2, given, "two modes", "choose model=least_norm")

    def solve(self, problem: RecoveryProblem) -> Tensor:
        """Return the matrix of least nuclear norm that agrees with the measurements.

        By the alternating direction method of multipliers, in turn with the threshold on singular
        values (Boyd et al. 2011, section 5.2) and the projection on what agrees.
        """
        operator, values = problem.operator, problem.values
        agreeing = operator.least_norm(values).view_as(problem.target)
        dual, threshold = torch.zeros_like(agreeing), 0.1 * torch.linalg.matrix_norm(agreeing, 2)
        for _ in range(MOST_ITERATIONS):
            left, sizes, right = torch.linalg.svd(agreeing - dual, full_matrices=False)
            low = (left * (sizes - threshold).clamp(min=0)) @ right
            before, agreeing = agreeing, low + dual
            agreeing = agreeing + operator.least_norm(values - operator(agreeing)).view_as(low)
            dual = dual + low - agreeing
            change = max(torch.norm(low - agreeing), torch.norm(agreeing - before))
            if change <= TOLERANCE * torch.norm(agreeing):
                break
        return agreeing
