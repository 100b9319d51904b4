"""Full-batch training of factorizations, for the study of how they learn."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from bench.bounds import Count, NotNegative, Positive, check_bounds, one_of
from bench.config import Cell, typed
from bench.errors import require
from bench.learners.base import Learner, Outcome
from bench.learners.dynamics_measures import MEASURES, Measure
from bench.learners.steps import StepsConfig
from bench.models.replicates import select_replicates, stack_replicates
from bench.optim import GroupRMSprop
from bench.status import Status
from data_prep.intervals import Intervals
from data_prep.problems import LossConfig, RecoveryProblem

PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
# In what replicates of one stack may differ: their shapes, and so their operations, are equal.
REPLICATED = ("seed", "init_mean", "init_std")


@runtime_checkable
class Factorizable(Protocol):
    """A model's schema that can start a factorization of a tensor of any shape."""

    def factorize(self, mode_dims: Sequence[int], seed: int) -> nn.Module:
        """Return a freshly started factorization."""
        ...


@runtime_checkable
class Drawable(Protocol):
    """A problem's schema that can draw the problem of a seed."""

    def problem(self, seed: int, loss: LossConfig, dtype: torch.dtype) -> RecoveryProblem:
        """Return the problem."""
        ...


@dataclass
class DynamicsConfig:
    """Schema of `configs/learner/dynamics.yaml`.

    Parameters
    ----------
    optimizer : str
        ``group_rmsprop``, as in [TF] and [HTF], or ``gradient_descent``.
    learning_rate : float
        Step size.
    loss : LossConfig
        The loss of the residuals at the measurements.
    precision : str
        ``float32`` or ``float64``.
    converged_below : float
        Training stops when the loss has been under this value in `patience` checks in a row; 0 for
        never.
    check_every, patience : int
        Iterations between two checks, and how many of them must hold in a row.
    measures : list of str
        What to measure beside the loss, see `bench.learners.dynamics_measures`.
    milestones : list of int
        Iterations whose reconstruction errors are metrics, `error_at_500` for 500.
    milestone_period, milestone_repeats : int
        If there are several repeats, a milestone's error is the mean over the iterations m,
        m + period, ..., m + (repeats - 1) period: that of repeats of which only the first has a
        fresh start and the others go on. Beyond the last iteration the last error counts.
    """

    optimizer: Annotated[str, one_of(["group_rmsprop", "gradient_descent"])] = "group_rmsprop"
    learning_rate: Positive = 1e-2
    loss: LossConfig = field(default_factory=LossConfig)
    precision: Annotated[str, one_of(PRECISIONS)] = "float32"
    converged_below: NotNegative = 1e-8
    check_every: Count = 25
    patience: Count = 1
    measures: list[str] = field(default_factory=lambda: ["errors", "learned_norms"])
    milestones: list[int] = field(default_factory=list)
    milestone_period: Count = 1
    milestone_repeats: Count = 1

    step: ClassVar[str] = "iteration"
    accepts: ClassVar[dict[str, type]] = {
        "data": Drawable,
        "model": Factorizable,
        "trainer": StepsConfig,
    }

    def __post_init__(self) -> None:
        check_bounds("learner", self)
        for name in self.measures:
            require(name in MEASURES, f"learner.measures={self.measures}", ", ".join(MEASURES))

    def check(self, cells: Sequence[Cell], root: str | None) -> None:
        """Raise `UserError` if a model does not suit its problem."""
        for cell in cells:
            variant = cell.config["variant"]
            require(variant == "original", f"variant={variant} of a generated problem", "original")
            learner: DynamicsConfig = typed(cell.config["learner"], "learner")
            model = _sample_model(_shape_of(cell))
            for name in learner.measures:
                MEASURES[name].check(model, typed(cell.config["data"], "data"))

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share for their parameters to stack."""
        return hashlib.sha256(_shape_of(cell).encode()).hexdigest()[:16]

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes of parameters, gradients, intermediate values and problems."""
        data = typed(cells[0].config["data"], "data")
        bytes_each = PRECISIONS[self.precision].itemsize
        parameters = sum(p.numel() for p in _sample_model(_shape_of(cells[0])).parameters())
        problem = data.problem(0, self.loss, torch.float64)
        values = sum(b.numel() for b in problem.buffers()) + problem.target.numel()
        return float(len(cells) * bytes_each * (8 * parameters + 4 * values))

    def build(
        self, cells: Sequence[Cell], trainer: StepsConfig, root: str | None
    ) -> tuple["Dynamics", Intervals]:
        """Return a learner of the cells; its data are inside."""
        return Dynamics(cells, self, trainer), Intervals()


def _shape_of(cell: Cell) -> str:
    """Return a cell's configuration without what replicates of one stack may differ in."""
    config = {name: value for name, value in cell.config.items() if name not in REPLICATED}
    config["model"] = {k: v for k, v in config["model"].items() if k not in REPLICATED}
    return json.dumps(config, sort_keys=True)


@lru_cache(maxsize=64)
def _sample_model(shape: str) -> nn.Module:
    """Return a model of the shape that a stack key stands for."""
    config = json.loads(shape)
    return typed(config["model"], "model").factorize(typed(config["data"], "data").mode_dims, 0)


class Dynamics(Learner):
    """Trains factorizations on all measurements at once, and follows what they learn when.

    Replicates of equal shapes (seeds, initialization scales) are computed together; each goes as
    it would alone. One that has converged or diverged is taken out and costs nothing more.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal `DynamicsConfig.stack_key`.
    config : DynamicsConfig
        Optimizer, loss, stop criterion and measures.
    steps : StepsConfig
        The bound on the steps and the schedule of measurements.
    """

    def __init__(self, cells: Sequence[Cell], config: DynamicsConfig, steps: StepsConfig) -> None:
        super().__init__(cells)
        self.automatic_optimization = False
        self.config = config
        self.schedule = steps.schedule()
        self.time_limit = float("inf") if steps.time_limit is None else steps.time_limit
        dtype = PRECISIONS[config.precision]
        self.data = typed(cells[0].config["data"], "data")
        self.problem: RecoveryProblem = stack_replicates(
            [self.data.problem(cell.config["seed"], config.loss, dtype) for cell in cells]
        )
        models = [
            typed(cell.config["model"], "model").factorize(self.data.mode_dims, cell.config["seed"])
            for cell in cells
        ]
        self.model = cast(Any, stack_replicates(models).to(dtype))
        kinds = [MEASURES[name] for name in config.measures]
        self.measures = nn.ModuleList(kind(self.model, self.problem, self.data) for kind in kinds)
        # What belongs to the replicates that still train, row by row.
        self.state = ReplicateState(len(cells), config.check_every, dtype)
        self.iteration = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return an optimizer that treats every replicate on its own."""
        rate = self.config.learning_rate
        if self.config.optimizer == "gradient_descent":
            return torch.optim.SGD(self.model.parameters(), lr=rate)
        return GroupRMSprop(self.model.parameters(), lr=rate, replicated=True)

    def training_step(self, batch: int, batch_idx: int) -> None:
        """Train up to the next scheduled measurement, then measure."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        if self.iteration == 0:
            self._measure(optimizer)
        end = next(step for step in self.schedule if step > self.iteration)
        self.train_until(end, optimizer)
        if len(self.state.members):
            self._measure(optimizer)
        if self.iteration == self.schedule[-1]:
            self._end(torch.ones_like(self.state.members, dtype=torch.bool), Status.MAX_STEPS)
        if all(self.outcomes):
            self.trainer.should_stop = True

    def train_until(self, end: int, optimizer: torch.optim.Optimizer) -> None:
        """Step until an iteration is reached or no replicate trains any more."""
        every = self.config.check_every
        while self.iteration < end and len(self.state.members):
            place = self.iteration % every
            losses = self._losses_with_gradients(optimizer)
            self.state.losses[:, place] = losses
            if place == 0:
                self._check(losses, optimizer)
                if not len(self.state.members):
                    return
            optimizer.step()
            self.iteration += 1

    def _losses_with_gradients(self, optimizer: torch.optim.Optimizer) -> Tensor:
        optimizer.zero_grad()
        losses = self.problem(self.model.full_tensor())
        losses.sum().backward()
        return losses.detach()

    def _check(self, losses: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Take out the replicates that have diverged or converged; gradients stay up to date."""
        state = self.state
        below = losses < self.config.converged_below
        state.patience += 1
        state.patience *= below
        diverged = ~losses.isfinite()
        converged = state.patience >= self.config.patience
        late = (self._flow_time(optimizer) >= self.time_limit) & ~converged & ~diverged
        state.remember_finite(losses)
        ended = converged | diverged | late
        if not ended.any():
            return
        self._record(converged | late, optimizer)
        self._end(diverged, Status.DIVERGED)
        self._end(converged, Status.CONVERGED)
        self._end(late, Status.MAX_STEPS)
        self._keep(~ended, optimizer)
        if len(state.members):
            self._losses_with_gradients(optimizer)

    def _measure(self, optimizer: torch.optim.Optimizer) -> None:
        """Add a point to the curves of the replicates that train; take out those that diverged."""
        losses = self._losses_with_gradients(optimizer)
        diverged = ~losses.isfinite()
        if diverged.any():
            self.state.losses[:, self.iteration % self.config.check_every] = losses
            self._end(diverged, Status.DIVERGED)
            self._keep(~diverged, optimizer)
            losses = self._losses_with_gradients(optimizer)
        self._record(torch.ones_like(self.state.members, dtype=torch.bool), optimizer)

    @torch.no_grad()
    def _record(self, chosen: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Measure, from current gradients, and add a point to the curves of chosen replicates."""
        if not chosen.any():
            return
        end_tensor = self.model.full_tensor()
        columns = {"flow_time": self._flow_time(optimizer), "train_loss": self.problem(end_tensor)}
        for measure in cast(Sequence[Measure], self.measures):
            columns |= measure(self.model, self.problem, end_tensor)
        rows = torch.stack([column.double() for column in columns.values()], 1)[chosen].tolist()
        for place, row in zip(self.state.members[chosen].tolist(), rows, strict=True):
            curve = self.curves[place]
            if not curve or curve[-1]["iteration"] < self.iteration:
                point = dict(zip(columns, row, strict=True))
                curve.append({"iteration": self.iteration, **point})

    def _flow_time(self, optimizer: torch.optim.Optimizer) -> Tensor:
        """Return each replicate's sum of step sizes."""
        if isinstance(optimizer, GroupRMSprop):
            return optimizer.flow_time
        rate = self.config.learning_rate
        return torch.full((len(self.state.members),), self.iteration * rate, device=self.device)

    def _end(self, chosen: Tensor, status: Status) -> None:
        """Give chosen replicates their outcomes: the last point and what sums up the curve."""
        for row in chosen.nonzero().flatten().tolist():
            place = int(self.state.members[row])
            curve = self.curves[place]
            metrics = dict(curve[-1])
            weights = {}
            if status is Status.DIVERGED:
                step, loss = self.state.divergence(row, self.iteration)
                metrics |= {"diverged_at": step, "last_finite_loss": loss}
            else:
                metrics |= self._milestones(curve)
                for measure in cast(Sequence[Measure], self.measures):
                    metrics |= measure.summary(curve, row)
                items = self.model.state_dict().items()
                weights = {name: values[row].cpu().clone() for name, values in items}
            self.outcomes[place] = Outcome(status, metrics, weights)

    def _milestones(self, curve: Sequence[dict[str, float]]) -> dict[str, float]:
        """Return the reconstruction errors at the milestones that were measured."""
        errors = {point["iteration"]: point.get("reconstruction_error") for point in curve}
        period, repeats = self.config.milestone_period, self.config.milestone_repeats
        result = {}
        for milestone in self.config.milestones:
            reached = [milestone + repeat * period for repeat in range(repeats)]
            values = [errors.get(min(step, self.iteration)) for step in reached]
            if milestone in errors and None not in values:
                result[f"error_at_{milestone}"] = sum(cast(list[float], values)) / repeats
        return result

    def _keep(self, kept: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Go on with some of the replicates."""
        replicates = len(kept)
        for module in (self.model, self.problem, self.measures, self.state):
            select_replicates(module, kept)
        for state in optimizer.state.values() if optimizer else ():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape[:1] == (replicates,):
                    state[name] = value[kept]

    def progress(self) -> tuple[float, float]:
        """Return the share of the steps done and the mean loss of the replicates that train."""
        done = self.iteration / self.schedule[-1] if len(self.state.members) else 1.0
        losses = [self.curves[place][-1]["train_loss"] for place in self.state.members.tolist()]
        return done, sum(losses) / len(losses) if losses else float("nan")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the position and which replicates still train."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["iteration"] = self.iteration
        checkpoint["members"] = self.state.members.cpu()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the shape of the checkpoint's replicates, so that their values fit."""
        super().on_load_checkpoint(checkpoint)
        self.iteration = checkpoint["iteration"]
        self._keep(torch.isin(self.state.members, checkpoint["members"]))


class ReplicateState(nn.Module):
    """What the learner knows of each replicate that still trains.

    Parameters
    ----------
    replicates, check_every : int
        How many there are, and how many steps lie between two checks.
    dtype : torch.dtype
        Of the losses.

    Attributes
    ----------
    members : Tensor
        Shape (replicates,), int64: places in the stack.
    patience : Tensor
        Shape (replicates,), int64: checks in a row whose loss was low enough.
    losses : Tensor
        Shape (replicates, check_every): the losses of the iterations since the last check, at the
        places ``iteration % check_every``.
    finite : Tensor
        Shape (replicates,): the loss at the last check.
    """

    members: Tensor
    patience: Tensor
    losses: Tensor
    finite: Tensor

    def __init__(self, replicates: int, check_every: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("members", torch.arange(replicates))
        self.register_buffer("patience", torch.zeros(replicates, dtype=torch.int64))
        losses = torch.full((replicates, check_every), torch.nan, dtype=dtype)
        self.register_buffer("losses", losses)
        self.register_buffer("finite", losses[:, 0].clone())

    def remember_finite(self, losses: Tensor) -> None:
        """Keep losses that are finite as those of the last check."""
        self.finite = losses.where(losses.isfinite(), self.finite)

    def divergence(self, row: int, iteration: int) -> tuple[int, float]:
        """Return the first iteration whose loss was not finite, and the loss before it."""
        every = self.losses.shape[1]
        place = iteration % every
        since = self.losses[row].roll(-place - 1)  # oldest first; the last is `iteration`'s
        finite = since.isfinite().tolist()
        bad = every
        while bad > 0 and not finite[bad - 1]:
            bad -= 1
        last = float(since[bad - 1]) if bad > 0 else float(self.finite[row])
        return iteration - (every - 1 - bad), last
