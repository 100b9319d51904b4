"""What dynamics runs can measure while they train, by the names used in `learner.measures`."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.settings import resolve
from bench.kernels.khatri_rao import cp_full_tensor
from bench.kernels.tproduct import leading_tubal_subspace, tubal_principal_angle
from bench.measures.ranks import (
    effective_rank,
    numerical_rank,
    rank_one_directions,
    rank_one_distance,
)
from bench.measures.trajectories import fit_growth_law
from bench.optim import GroupRMSprop
from data_prep.problems import InnerProducts, RecoveryProblem

Curve = Sequence[Mapping[str, float]]
Columns = dict[str, Tensor]
NEAR_ZERO = 1e-2  # the norm of each vector from which a trajectory of rank one starts


class Measure(nn.Module, ABC):
    """Measures all replicates of a stack at once; buffers stack like the model's.

    Parameters
    ----------
    model : nn.Module
        The stacked model at its start.
    problem : RecoveryProblem
        The stacked problem.
    data : settings
        What `configs/data/` says of the problem.

    Attributes
    ----------
    method : str
        The method that a model needs to be measured, if any.
    """

    method: ClassVar[str] = ""

    def __init__(self, model: nn.Module, problem: RecoveryProblem, data: Any) -> None:
        super().__init__()
        self.rank: int = data.rank

    @classmethod
    def fits(cls, model: Any, data: Any) -> tuple[bool, str]:
        """Return whether a model, not stacked, and the settings of data have what is measured.

        Also return what is expected, for the message; a model that lacks `method` is refused first.
        """
        return True, ""

    @classmethod
    def check(cls, model: nn.Module, data: Any, name: str) -> None:
        """Raise `UserError`, with the name of the measure, unless a model and data fit."""
        hint = f"leave {name} out of learner.measures"
        given = f"learner.measures with {name} for a {type(model).__name__}"
        expected = f"a model with {cls.method}()"
        require(not cls.method or hasattr(model, cls.method), given, expected, hint)
        given += f" and a target of shape {list(data.mode_dims)} and rank {data.rank}"
        fits, expected = cls.fits(model, data)
        require(fits, given, expected, hint)

    @abstractmethod
    def forward(self, model: Any, problem: RecoveryProblem, end_tensor: Tensor) -> Columns:
        """Return measurements by name, shape (replicates,); gradients of the loss are at hand."""

    def summary(self, curve: Curve, row: int) -> dict[str, float]:
        """Return what a replicate's whole curve says; it is in the given row of the stack."""
        return {}


class Errors(Measure):
    """Relative errors: of the measured values, and of the whole tensor.

    `recovered` is 1 if the reconstruction error in the end is below 1 %, and 0 otherwise, so that
    its mean over runs is the rate of success.
    """

    recovered_below = 0.01

    def forward(self, model: Any, problem: RecoveryProblem, end_tensor: Tensor) -> Columns:
        """Return `train_error` and `reconstruction_error`."""
        whole = problem.reconstruction_error(end_tensor)
        return {"train_error": problem.train_error(end_tensor), "reconstruction_error": whole}

    def summary(self, curve: Curve, row: int) -> dict[str, float]:
        """Return whether the whole tensor has been recovered: 1 or 0."""
        return {"recovered": float(curve[-1]["reconstruction_error"] < self.recovered_below)}


class LearnedNorms(Measure):
    """The largest of the norms that are learned one after another, and how they part.

    `gap` is the ratio of the norm whose number is the target's rank to the next; `numerical_rank`
    counts the norms above 1 % of the largest. Of several groups (the nodes of a tree) the worst
    counts: the smallest gap and the largest rank.
    """

    method = "learned_norms"
    shown_beyond_rank = 2

    @classmethod
    @torch.no_grad()
    def fits(cls, model: Any, data: Any) -> tuple[bool, str]:
        """Ask for a model with more norms than the target's rank."""
        fewest = min(len(norms) for norms in model.learned_norms().values())
        expected = "a wider model, with more components, tubes or values than the target's rank"
        return fewest > data.rank, f"{expected}, not {fewest}"

    def forward(self, model: Any, problem: RecoveryProblem, end_tensor: Tensor) -> Columns:
        """Return the leading norms, `gap` and `numerical_rank`."""
        norms = model.learned_norms().items()
        falling = {name: each.sort(-1, descending=True).values for name, each in norms}
        columns = {
            f"{name}_{i + 1}": norms[:, i]
            for name, norms in falling.items()
            for i in range(min(self.rank + self.shown_beyond_rank, norms.shape[-1]))
        }
        gap, rank = _gap_and_rank(falling.values(), self.rank)
        return {**columns, "gap": gap, "numerical_rank": rank}


def _gap_and_rank(groups: Iterable[Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """Return the smallest gap after value number `rank`, and the largest numerical rank."""
    pairs = [(values[:, rank - 1] / values[:, rank], numerical_rank(values)) for values in groups]
    gaps, ranks = map(torch.stack, zip(*pairs, strict=True))
    return gaps.amin(0), ranks.amax(0)


class NodeRanks(Measure):
    """The hierarchical tensor rank of the end tensor: its matricizations' ranks [HTF].

    `node_gap` is the ratio of the singular value whose number is the target's rank to the next, and
    `node_rank` counts the singular values above 1 % of the largest; at the worst node of the tree.
    """

    method = "matricization_singular_values"

    @classmethod
    def fits(cls, model: Any, data: Any) -> tuple[bool, str]:
        """Ask for a target of less than full rank."""
        most = min(data.mode_dims)
        return data.rank < most, f"a rank under {most}, the least mode dimension"

    def forward(self, model: Any, problem: RecoveryProblem, end_tensor: Tensor) -> Columns:
        """Return the smallest gap and the largest rank of any node."""
        gap, rank = _gap_and_rank(model.matricization_singular_values().values(), self.rank)
        return {"node_gap": gap, "node_rank": rank}


class UnobservedEntry(Measure):
    """The entry that 2 x 2 completion leaves open, and the rank of the end matrix [NORM]."""

    @classmethod
    def fits(cls, model: Any, data: Any) -> tuple[bool, str]:
        """Ask for a matrix of 2 x 2."""
        return tuple(data.mode_dims) == (2, 2), "the shape [2, 2] of data=norms_or_rank"

    def forward(self, model: Any, problem: RecoveryProblem, end_tensor: Tensor) -> Columns:
        """Return the size of the entry, the determinant and the effective rank."""
        return {
            "unobserved_entry": end_tensor[:, 0, 0].abs(),
            "determinant": torch.linalg.det(end_tensor),
            "effective_rank": effective_rank(torch.linalg.svdvals(end_tensor)),
        }

    def summary(self, curve: Curve, row: int) -> dict[str, float]:
        """Return the slope of ``log |entry|`` against log loss over the last factor 10 of the loss.

        The theory's lower bound for norms, 1 / sqrt(loss), has the slope -1/2. `positive_until` is
        the smallest loss up to which the determinant kept its positive sign.
        """
        points = [(p["train_loss"], p["unobserved_entry"]) for p in curve if p["train_loss"] > 0]
        last = points[-1][0]
        tail = torch.tensor([p for p in points if p[0] <= 10 * last], dtype=torch.float64).log()
        centered = tail - tail.mean(0)
        slope = (centered[:, 0] @ centered[:, 1]) / centered[:, 0].square().sum()
        positive = [p["train_loss"] for p in curve if p["determinant"] > 0]
        return {"slope": float(slope), "positive_until": min(positive, default=math.nan)}


class TubalAngles(Measure):
    """Principal angles of the learned tubal subspace in the two phases of training [TUB]."""

    def __init__(self, model: nn.Module, problem: RecoveryProblem, data: Any) -> None:
        super().__init__(model, problem, data)
        assert isinstance(problem.operator, InnerProducts)
        back = problem.operator.back_project(problem.values).view_as(problem.target)
        self.projected = nn.Buffer(leading_tubal_subspace(back, self.rank))
        self.sought = nn.Buffer(leading_tubal_subspace(problem.target, self.rank))

    @classmethod
    def fits(cls, model: Any, data: Any) -> tuple[bool, str]:
        """Ask for a sensing problem of tubal rank."""
        family = getattr(getattr(data, "target", None), "family", "")
        fits = family == "tubal" and data.measurements.kind != "entries"
        return fits, "a sensing problem with data.target.family=tubal"

    def forward(self, model: Any, problem: RecoveryProblem, end_tensor: Tensor) -> Columns:
        """Return sines of angles to the operator's back-projection and to the target."""
        learned = leading_tubal_subspace(model.factor, self.rank)
        return {
            "angle_to_projection": tubal_principal_angle(self.projected, learned),
            "angle_to_target": tubal_principal_angle(self.sought, learned),
        }

    def summary(self, curve: Curve, row: int) -> dict[str, float]:
        """Return when the subspace had aligned, and when the error had fallen to a half.

        `aligned_at`: the first iteration whose angle to the target is within 0.1 of its value when
        the train error first is under 90 %. Nothing if errors are not measured.
        """
        if "train_error" not in curve[0]:
            return {}
        rising = next((p for p in curve if p["train_error"] < 0.9), None)
        half = next((p["iteration"] for p in curve if p["reconstruction_error"] < 0.5), math.nan)
        if rising is None:
            return {"aligned_at": math.nan, "half_error_at": half}
        level = rising["angle_to_projection"] + 0.1
        aligned = next(p["iteration"] for p in curve if p["angle_to_projection"] <= level)
        growing = rising["angle_to_target"]
        return {"aligned_at": aligned, "half_error_at": half, "angle_when_growing": growing}


class ConservedDifferences(Measure):
    """How far the quantities that gradient flow conserves have moved."""

    method = "conserved_differences"

    def __init__(self, model: Any, problem: RecoveryProblem, data: Any) -> None:
        super().__init__(model, problem, data)
        with torch.no_grad():
            self.start = nn.Buffer(model.conserved_differences())

    def forward(self, model: Any, problem: RecoveryProblem, end_tensor: Tensor) -> Columns:
        """Return the largest change since the start."""
        return {"drift": (model.conserved_differences() - self.start).abs().amax(-1)}

    def summary(self, curve: Curve, row: int) -> dict[str, float]:
        """Return the largest drift of the whole curve."""
        return {"largest_drift": max(point["drift"] for point in curve)}


class Growth(Measure):
    """Norms and drives of all components, and the exponent of the law by which they grow."""

    method = "component_drives"
    # Shares of the component's largest norm. Below the first the start's imbalance still counts:
    # the smaller the start, the less.
    from_share, to_share = 0.02, 0.9
    least_share = 0.2  # of the largest component's norm, for a component to count as learned
    least_points = 8

    def __init__(self, model: Any, problem: RecoveryProblem, data: Any) -> None:
        super().__init__(model, problem, data)
        self.vectors: int = model.vectors_per_component

    def forward(self, model: Any, problem: RecoveryProblem, end_tensor: Tensor) -> Columns:
        """Return the norm and the drive of each component, in fixed order."""
        norms = torch.cat([*model.learned_norms().values()], -1)
        drives = model.component_drives()
        columns = {f"norm_{i}": column for i, column in enumerate(norms.unbind(-1))}
        return columns | {f"drive_{i}": column for i, column in enumerate(drives.unbind(-1))}

    def summary(self, curve: Curve, row: int) -> dict[str, float]:
        """Return the mean exponent of the learned components, and what theory says of it."""
        exponents = self._exponents(curve)
        fitted = {"exponent": sum(exponents) / len(exponents)} if exponents else {}
        count = float(len(exponents))
        return {"theory": 2 - 2 / self.vectors, "components_fitted": count, **fitted}

    def _exponents(self, curve: Curve) -> list[float]:
        columns = {n: torch.tensor([p[n] for p in curve], dtype=torch.float64) for n in curve[0]}
        names = [name for name in columns if name.startswith("norm_")]
        largest = max(float(columns[name].max()) for name in names)
        exponents = []
        for norms, drives in ((columns[n], columns[n.replace("norm", "drive")]) for n in names):
            if norms.max() < self.least_share * largest:
                continue
            shares = (self.from_share, self.to_share)
            first, last = (int((norms > s * norms.max()).int().argmax()) for s in shares)
            if last - first >= self.least_points:
                part = slice(first, last)
                law = fit_growth_law(columns["flow_time"][part], norms[part], drives[part])
                exponents += [law[0]] if law else []  # none if it falls for most of the way
        return exponents


class RankOneDistance(Measure):
    """How far the end tensor is from rank one, and from trajectories of rank one [TF, theorem 2].

    The trajectories are those of a single balanced component that starts near zero, in one of the
    directions towards which the loss drives small components; see `rank_one_trajectories`.
    """

    until_share = 0.5  # of the target's norm

    def __init__(self, model: nn.Module, problem: RecoveryProblem, data: Any) -> None:
        super().__init__(model, problem, data)
        self.trajectories = nn.Buffer(rank_one_trajectories(problem))

    @classmethod
    def fits(cls, model: Any, data: Any) -> tuple[bool, str]:
        """Ask for modes of equal dimension."""
        return len({*data.mode_dims}) == 1, "a shape of equal dimensions"

    def forward(self, model: Any, problem: RecoveryProblem, end_tensor: Tensor) -> Columns:
        """Return both distances and the norm, in units of the target's norm."""
        scale, flat = problem.target.flatten(1).norm(dim=1), end_tensor.flatten(1)
        distances = torch.stack([rank_one_distance(tensor) for tensor in end_tensor])
        starts, steps = self.trajectories[:, :, :-1], self.trajectories.diff(dim=2)
        away = flat[:, None, None] - starts
        lengths = steps.square().sum(-1, keepdim=True)
        share = (away * steps).sum(-1, keepdim=True) / lengths.where(lengths > 0, 1)  # or at rest
        from_lines = (away - share.clamp(0, 1) * steps).norm(dim=-1).amin((1, 2))
        columns = {"rank_one_distance": distances, "trajectory_distance": from_lines}
        columns["relative_norm"] = flat.norm(dim=1)
        return {name: column / scale for name, column in columns.items()}

    def summary(self, curve: Curve, row: int) -> dict[str, float]:
        """Return the largest distances before the norm first reaches the bound."""
        early = [*takewhile(lambda point: not point["relative_norm"] > self.until_share, curve)]
        names = ("rank_one_distance", "trajectory_distance")
        return {f"largest_{n}": max((p[n] for p in early), default=math.nan) for n in names}


@torch.enable_grad()
def rank_one_trajectories(
    problem: RecoveryProblem, starts: int = 4, points: int = 200, every: int = 10
) -> Tensor:
    """Return balanced trajectories of rank one that emanate from near zero [TF, theorem 2].

    Small components turn towards the directions in which the negative gradient of the loss at zero
    is largest, locally, before they grow. A single component is trained from each.

    Parameters
    ----------
    problem : RecoveryProblem
        Stacked, with modes of equal dimension.
    starts : int
        From how many directions; several may be the same.
    points, every : int
        How many points of a trajectory are returned, and how many steps lie between two.

    Returns
    -------
    Tensor
        Shape (replicates, starts, points, entries).
    """
    zero = torch.zeros_like(problem.target).requires_grad_()
    (slope,) = torch.autograd.grad(problem(zero).sum(), zero)
    directions = [torch.stack(rank_one_directions(-one, starts)[0]) for one in slope]
    trajectories = []
    for vectors in torch.stack(directions).unbind(2):  # of shape (replicates, order, mode_dim)
        factors = nn.Parameter(NEAR_ZERO * vectors.unsqueeze(-1))
        optimizer, trajectory = GroupRMSprop([factors], lr=3e-3, replicated=True), []
        for step in range(points * every):
            tensor = cp_full_tensor(factors)
            if step % every == 0:
                trajectory.append(tensor.detach().flatten(1))
            optimizer.zero_grad()
            problem(tensor).sum().backward()
            optimizer.step()
        trajectories.append(torch.stack(trajectory, 1))
    return torch.stack(trajectories, 1)


def measure_class(name: str) -> type[Measure]:
    """Return the class of a measure: by its name in `MEASURES`, or any other by its dotted name.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    if "." not in name:
        expected = f"one of {', '.join(MEASURES)}, or the dotted name of a class"
        require(name in MEASURES, f"learner.measures with {name}", expected)
        return MEASURES[name]
    found = resolve(name, "learner.measures")
    expected = f"a class derived from {Measure.__module__}.Measure"
    fits = isinstance(found, type) and issubclass(found, Measure)
    require(fits, f"learner.measures with {name}", expected)
    return found


# By the names of the classes, in lower case with underscores.
MEASURES = {re.sub(r"\B(?=[A-Z])", "_", m.__name__).lower(): m for m in Measure.__subclasses__()}
