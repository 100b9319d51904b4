"""Full-batch training of factorizations, for the study of how they learn."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Protocol, cast, runtime_checkable

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from bench.core.cell import Cell
from bench.core.errors import require
from bench.core.seeding import derive_seed
from bench.core.settings import Count, Factory, NonNegative, Positive, Settings, as_plain, settings
from bench.core.status import Status
from bench.learners.base import LearnerConfig, Outcome, as_points
from bench.learners.dynamics_measures import Measure, measure_class
from bench.learners.interval import ELEMENTWISE, IntervalLearner, device_of, require_optimizers
from bench.models.replicates import select_optimizer_state, select_replicates, stack_replicates
from bench.optim import GroupRMSprop
from data_prep.problems import LossConfig, RecoveryProblem

# In what replicates of one stack may differ: their shapes, and so their operations, are equal.
REPLICATED = ("init_mean", "init_std", "start", "determinant_sign")


@runtime_checkable
class Factorizable(Protocol):
    """Settings of a model that can start a factorization of a tensor of any shape."""

    def factorize(self, mode_dims: Sequence[int], seed: int) -> nn.Module:
        """Return a freshly started factorization."""
        ...


@runtime_checkable
class ProblemSource(Protocol):
    """Settings of data that give the problem of a seed."""

    @property
    def mode_dims(self) -> tuple[int, ...]:
        """The shape of the tensor to recover."""
        ...

    def problem(self, seed: int, loss: LossConfig, dtype: torch.dtype) -> RecoveryProblem:
        """Return the problem."""
        ...


@settings
class StepsConfig(Settings):
    """Settings of `configs/trainer/steps.yaml`.

    Parameters
    ----------
    max_steps : int
        Steps at most.
    time_limit : float, optional
        Time of gradient flow, the sum of step sizes, at most; to compare step sizes.
    measurements : int
        How many times to measure, beside the start. The measured curves are a result, so that
        another schedule is another run.
    spacing : str
        ``linear`` or ``logarithmic``: how the measurements are spaced over the steps.
    """

    name: ClassVar[str] = "steps"

    max_steps: Count = 20_000
    time_limit: Positive | None = None
    measurements: Annotated[int, Field(ge=1, le=10**6)] = 200
    spacing: Literal["linear", "logarithmic"] = "linear"

    def schedule(self) -> list[int]:
        """Return the steps after which to measure, rising, the last step among them."""
        shares = np.arange(1, self.measurements + 1) / self.measurements
        steps = self.max_steps * shares if self.spacing == "linear" else self.max_steps**shares
        return sorted({max(round(step), 1) for step in steps})


@settings
class DynamicsConfig(LearnerConfig):
    """Settings of `configs/learner/dynamics.yaml`.

    Parameters
    ----------
    loss : LossConfig
        The loss of the residuals at the measurements.
    precision : str
        ``float32`` or ``float64``.
    converged_below : float
        Training stops when the loss has been under this value in `patience` checks in a row; 0 for
        never.
    check_every, patience : int
        Iterations between two checks, and how many of them must hold in a row.
    measures : tuple of str
        What to measure beside the loss, see `bench.learners.dynamics_measures.measure_class`.
    milestones : tuple of int
        Iterations whose reconstruction errors are metrics, `error_at_500` for 500.
    milestone_period, milestone_repeats : int
        If there are several repeats, a milestone's error is the mean over the iterations m,
        m + period, ..., m + (repeats - 1) period: that of repeats which go on where the one before
        has ended.
    restarts : tuple of int
        Iterations at which the weights start afresh.
    """

    loss: LossConfig = LossConfig()
    precision: Literal["float32", "float64"] = "float32"
    converged_below: NonNegative = 1e-8
    check_every: Count = 25
    patience: Count = 51
    measures: tuple[str, ...] = ("errors", "learned_norms")
    milestones: tuple[Count, ...] = ()
    milestone_period: Count = 1
    milestone_repeats: Count = 1
    restarts: tuple[Count, ...] = ()

    name: ClassVar[str] = "dynamics"
    step: ClassVar[str] = "iteration"
    accepts: ClassVar[dict[str, type]] = dict(
        data=ProblemSource, model=Factorizable, optimizer=Factory, trainer=StepsConfig
    )

    def __post_init__(self) -> None:
        for name in self.measures:
            measure_class(name)
            given = f"learner.measures={list(self.measures)}"
            require(self.measures.count(name) == 1, given, f"{name} once")

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise `UserError` if a model does not suit its problem."""
        device_of(cells[0])
        require_optimizers(cells)
        for cell in cells:
            given = f"variant={cell.variant} of a generated problem"
            require(cell.variant == "original", given, "original")
        for model, data in dict.fromkeys((cell.model, cell.data) for cell in cells):
            for name in self.measures:
                measure_class(name).check(_sample_model(model, data.mode_dims), data, name)

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share for their parameters to stack."""
        if cell.optimizer.name not in {"GroupRMSprop", *ELEMENTWISE}:
            return cell.run_key
        model = {k: v for k, v in as_plain(cell.model).items() if k not in REPLICATED}
        shared = (self, cell.data, cell.optimizer, cell.trainer)
        return repr((type(cell.model).__name__, model, *map(as_plain, shared)))

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes of parameters, gradients, intermediate values and problems."""
        cell = cells[0]
        bytes_each = getattr(torch, self.precision).itemsize
        model = _sample_model(cell.model, cell.data.mode_dims)
        parameters = sum(p.numel() for p in model.parameters())
        values = problem_values(cell.data, self.loss)
        return float(len(cells) * bytes_each * (8 * parameters + 4 * values))

    def module(self, cell: Cell) -> nn.Module:
        """Return a freshly started factorization."""
        return cell.model.factorize(cell.data.mode_dims, cell.seed)

    def build(self, cells: Sequence[Cell]) -> "Dynamics":
        """Return a learner of the cells; its data are inside."""
        return Dynamics(cells, self)


@lru_cache(maxsize=64)
def _sample_model(model: Factorizable, mode_dims: tuple[int, ...]) -> nn.Module:
    return model.factorize(mode_dims, 0)


@lru_cache(maxsize=64)
def problem_values(data: ProblemSource, loss: LossConfig) -> int:
    """Return how many numbers a problem consists of."""
    problem = data.problem(0, loss, torch.float64)
    return sum(b.numel() for b in problem.buffers()) + problem.target.numel()


class Dynamics(IntervalLearner):
    """Trains factorizations on all measurements at once, and follows what they learn when.

    Replicates of equal shapes (seeds, initialization scales) are computed together; each goes as
    it would alone. One that has converged or diverged is taken out and costs nothing more.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal `DynamicsConfig.stack_key`.
    config : DynamicsConfig
        Loss, stop criterion and measures.

    Attributes
    ----------
    members : Tensor
        Shape (replicates,), int64, like the following: of those that still train the indices in
        the stack.
    patience : Tensor
        Checks in a row whose loss was low enough.
    diverged_at, last_finite : Tensor
        The iteration after the last one whose loss was finite, and that loss.
    flow_time : Tensor
        The sum of an adaptive optimizer's step sizes, float64.
    """

    def __init__(self, cells: Sequence[Cell], config: DynamicsConfig) -> None:
        super().__init__(cells)
        self.config = config
        steps: StepsConfig = cells[0].trainer
        self.schedule = steps.schedule()
        self.time_limit = float("inf") if steps.time_limit is None else steps.time_limit
        dtype = getattr(torch, config.precision)
        data = cells[0].data
        problems = [data.problem(cell.seed, config.loss, dtype) for cell in cells]
        self.problem: RecoveryProblem = stack_replicates(problems)
        models = [cell.model.factorize(data.mode_dims, cell.seed) for cell in cells]
        self.model = cast(Any, stack_replicates(models).to(dtype))
        kinds = [measure_class(name) for name in config.measures]
        self.measures = nn.ModuleList(kind(self.model, self.problem, data) for kind in kinds)
        # What belongs to the replicates that still train, row by row.
        self.members: Tensor = nn.Buffer(torch.arange(len(cells)))
        self.patience: Tensor = nn.Buffer(torch.zeros_like(self.members))
        self.diverged_at: Tensor = nn.Buffer(torch.zeros_like(self.members))
        self.last_finite: Tensor = nn.Buffer(torch.full((len(cells),), torch.nan, dtype=dtype))
        self.flow_time: Tensor = nn.Buffer(torch.zeros(len(cells), dtype=torch.float64))
        self.iteration = 0

    def make_optimizer(self) -> Optimizer:
        """Return an optimizer that treats every replicate on its own."""
        optimizer: Factory = self.run_log.cells[0].optimizer
        own = {"replicated": True} if "replicated" in optimizer.defaults else {}
        return optimizer(self.model.parameters(), **own)

    def train_interval(self) -> None:
        """Train up to the next scheduled measurement, then measure."""
        if self.iteration == 0:
            self._measure()
        self._train_until(next(step for step in self.schedule if step > self.iteration))
        if len(self.members):
            self._measure()
        if self.iteration == self.schedule[-1]:
            self._end(torch.ones_like(self.members, dtype=torch.bool), Status.MAX_STEPS)

    def _train_until(self, end: int) -> None:
        """Step until an iteration is reached or no replicate trains any more."""
        every = self.config.check_every
        while self.iteration < end and len(self.members):
            if self.iteration in self.config.restarts:
                self._restart()
            losses = self._losses_with_gradients()
            self.optimizer.step()
            self.iteration += 1
            if isinstance(self.optimizer, GroupRMSprop):
                self.flow_time += self.optimizer.step_size
            if self.iteration % every == 0:
                self._check(losses)

    def _restart(self) -> None:
        """Give the replicates other weights, as at the start."""
        cells = [self.run_log.cells[index] for index in self.members.tolist()]
        seeds = [derive_seed(cell.seed, "restart", self.iteration) for cell in cells]
        pairs = zip(cells, seeds, strict=True)
        models = [cell.model.factorize(cell.data.mode_dims, seed) for cell, seed in pairs]
        self.model.load_state_dict(stack_replicates(models).state_dict())

    def _losses_with_gradients(self) -> Tensor:
        self.optimizer.zero_grad()
        losses = self.problem(self.model.full_tensor())
        losses.sum().backward()
        losses = losses.detach()
        finite = losses.isfinite()
        self.last_finite = losses.where(finite, self.last_finite)
        self.diverged_at = self.diverged_at.masked_fill(finite, self.iteration + 1)
        return losses

    def _check(self, losses: Tensor) -> None:
        """Take out the replicates that have diverged or converged, by their losses before the step.

        As in the published code, the weights that are kept are those after that step.
        """
        self.patience += 1
        self.patience *= losses < self.config.converged_below
        diverged = ~losses.isfinite()
        converged = self.patience >= self.config.patience
        late = (self._flow_time() >= self.time_limit) & ~converged & ~diverged
        if not (converged | diverged | late).any():
            return
        # Those that the last step has broken stay, and the next check finds that they diverged.
        intact = self._losses_with_gradients().isfinite()
        converged, late = converged & intact, late & intact
        self._record(converged | late)
        self._end(diverged, Status.DIVERGED)
        self._end(converged, Status.CONVERGED)
        self._end(late, Status.MAX_STEPS)
        self._keep(~(converged | diverged | late))

    def _measure(self) -> None:
        """Add a point to the curves of the replicates that train; take out those that diverged."""
        diverged = ~self._losses_with_gradients().isfinite()
        if diverged.any():
            self._end(diverged, Status.DIVERGED)
            self._keep(~diverged)
            if not len(self.members):
                return  # not all backends of an FFT take none
            self._losses_with_gradients()
        self._record(torch.ones_like(self.members, dtype=torch.bool))

    @torch.no_grad()
    def _record(self, chosen: Tensor) -> None:
        """Measure, from current gradients, and add a point to the curves of chosen replicates."""
        if not chosen.any():
            return
        end_tensor = self.model.full_tensor()
        columns = {"flow_time": self._flow_time(), "train_loss": self.problem(end_tensor)}
        for measure in cast(Sequence[Measure], self.measures):
            columns |= measure(self.model, self.problem, end_tensor)
        points = as_points({name: column[chosen] for name, column in columns.items()})
        for index, point in zip(self.members[chosen].tolist(), points, strict=True):
            self.run_log.add_point(index, {"iteration": self.iteration, **point})

    def _flow_time(self) -> Tensor:
        """Return each replicate's sum of step sizes."""
        if isinstance(self.optimizer, GroupRMSprop):
            return self.flow_time
        rate = self.optimizer.param_groups[0]["lr"]
        return torch.full((len(self.members),), self.iteration * rate, device=self.device)

    def _end(self, chosen: Tensor, status: Status) -> None:
        """Give chosen replicates their outcomes: the last point and what sums up the curve."""
        for row in chosen.nonzero().flatten().tolist():
            index = int(self.members[row])
            curve = self.run_log.curves[index]
            metrics = dict(curve[-1]) if curve else {}
            weights = {}
            if status is Status.DIVERGED:
                metrics["diverged_at"] = int(self.diverged_at[row])
                metrics["last_finite_loss"] = float(self.last_finite[row])
            else:
                metrics |= self._milestones(curve)
                for measure in cast(Sequence[Measure], self.measures):
                    metrics |= measure.summary(curve, row)
                items = self.model.state_dict().items()
                weights = {name: values[row].cpu().clone() for name, values in items}
            self.run_log.end(index, Outcome(status, metrics, weights))

    def _milestones(self, curve: Sequence[dict[str, float]]) -> dict[str, float]:
        """Return the reconstruction errors at the milestones that were measured."""
        errors = {point["iteration"]: point.get("reconstruction_error") for point in curve}
        period, repeats = self.config.milestone_period, self.config.milestone_repeats
        result = {}
        for milestone in self.config.milestones:
            reached = [milestone + repeat * period for repeat in range(repeats)]
            values = [errors.get(step) for step in reached]
            if None not in values:
                result[f"error_at_{milestone}"] = sum(cast(list[float], values)) / repeats
        return result

    def _keep(self, kept: Tensor) -> None:
        """Go on with some of the replicates."""
        select_replicates(self, kept)
        select_optimizer_state(self.optimizer, kept)

    def share_done(self) -> float:
        """Return the share of the steps done."""
        return self.iteration / self.schedule[-1] if len(self.members) else 1.0

    def extra_state(self) -> dict[str, Any]:
        """Return the position and which replicates still train."""
        return {"iteration": self.iteration, "members": self.members.cpu()}

    def adopt(self, extra: Mapping[str, Any]) -> None:
        """Take the shape of the checkpoint's replicates, so that their values fit."""
        self.iteration = extra["iteration"]
        self._keep(torch.isin(self.members, extra["members"].to(self.device)))
