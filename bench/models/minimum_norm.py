"""Completions of least norm: the convex rivals of factorizations, solved and not trained."""

from typing import ClassVar

import torch
from torch import Tensor

from bench.core.errors import require
from bench.core.settings import Settings, settings
from data_prep.problems import RecoveryProblem

TOLERANCE = 1e-6  # of the two residuals, relative to the solution's norm
MOST_ITERATIONS = 20_000
# How often, and until when, a residual of so many times the other's changes the threshold by a
# factor of 2. A fixed threshold takes ten times as many iterations where few solutions are near.
BALANCED_EVERY, BALANCED_UNTIL, UNBALANCED = 10, 2000, 3.0


@settings
class LeastNormConfig(Settings):
    """Settings of `configs/model/least_norm.yaml`: the least Frobenius norm.

    The linear baseline of [NORM] and [TF]: linear in the measurements, and 0 wherever a completion
    problem observes nothing.
    """

    name: ClassVar[str] = "least_norm"

    def check(self, mode_dims: tuple[int, ...]) -> None:
        """Take tensors of any shape."""

    def solve(self, problem: RecoveryProblem) -> tuple[Tensor, bool]:
        """Return the tensor of least Frobenius norm that agrees with the measurements, and True."""
        return problem.operator.least_norm(problem.values).view_as(problem.target), True


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

    def solve(self, problem: RecoveryProblem) -> tuple[Tensor, bool]:
        """Return the matrix of least nuclear norm that agrees with the measurements.

        With it comes whether the residuals met `TOLERANCE` within `MOST_ITERATIONS`.

        By the alternating direction method of multipliers, in turn with the threshold on singular
        values and the projection on what agrees (Boyd et al. 2011, section 5.2), with a threshold
        that balances the residuals (section 3.4.1).
        """
        operator, values = problem.operator, problem.values
        agreeing = operator.least_norm(values).view_as(problem.target)
        dual, threshold = torch.zeros_like(agreeing), 0.1 * torch.linalg.matrix_norm(agreeing, 2)
        for iteration in range(1, MOST_ITERATIONS + 1):
            left, sizes, right = torch.linalg.svd(agreeing - dual, full_matrices=False)
            low = (left * (sizes - threshold).clamp(min=0)) @ right
            before, agreeing = agreeing, low + dual
            agreeing = agreeing + operator.least_norm(values - operator(agreeing)).view_as(low)
            dual = dual + low - agreeing
            primal, moved = torch.norm(low - agreeing), torch.norm(agreeing - before)
            if max(primal, moved) <= TOLERANCE * torch.norm(agreeing):
                return agreeing, True
            if iteration % BALANCED_EVERY == 0 and iteration <= BALANCED_UNTIL:
                factor = 0.5 if primal > UNBALANCED * moved else 1.0
                factor = 2.0 if moved > UNBALANCED * primal else factor
                threshold, dual = factor * threshold, factor * dual
        return agreeing, False
