"""The settings of the generated problems in `configs/data/`."""

import torch

from bench.core.settings import settings
from data_prep.problems import (
    LossConfig,
    MeasurementConfig,
    RecoveryProblem,
    TargetConfig,
    check_together,
    make_problem,
    norms_or_rank_problem,
)


@settings
class CompletionConfig:
    """Settings of the completion and sensing problems.

    Parameters
    ----------
    name : str
        What tables and W&B call the problem.
    target : TargetConfig
        The tensor to recover.
    measurements : MeasurementConfig
        What of it is seen.
    """

    name: str
    target: TargetConfig
    measurements: MeasurementConfig

    def __post_init__(self) -> None:
        check_together(self.target, self.measurements)

    @property
    def mode_dims(self) -> tuple[int, ...]:
        """The target's shape."""
        return self.target.mode_dims

    @property
    def rank(self) -> int:
        """The target's rank."""
        return self.target.rank

    def problem(self, seed: int, loss: LossConfig, dtype: torch.dtype) -> RecoveryProblem:
        """Sample the problem of a seed."""
        return make_problem(self.target, self.measurements, loss, seed, dtype)


@settings
class NormsOrRankConfig:
    """Settings of `configs/data/norms_or_rank.yaml`: 2 x 2 completion [NORM].

    Parameters
    ----------
    name : str
        What tables and W&B call the problem.
    """

    name: str = "norms or rank"

    @property
    def mode_dims(self) -> tuple[int, ...]:
        """The shape of the matrix."""
        return 2, 2

    @property
    def rank(self) -> int:
        """The infimum of the rank over all matrices that fit the observations."""
        return 1

    def problem(self, seed: int, loss: LossConfig, dtype: torch.dtype) -> RecoveryProblem:
        """Return the problem, the same for every seed."""
        return norms_or_rank_problem(loss, dtype)
