"""Convolutional arithmetic circuits on images, for all that differ in seed and class at once."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from bench.bounds import Count, NotNegative, Positive, at_least, check_bounds, one_of
from bench.config import Cell, typed
from bench.errors import UserError, require
from bench.learners.base import EpochsConfig
from bench.learners.objectives import OBJECTIVES, Objective
from bench.learners.predictors import PredictorStack, check_problems, images_key, problem_of
from bench.measures.locality import locality
from bench.models.convnet import CircuitConfig, ConvArithmeticCircuit
from bench.models.replicates import select_replicates, stack_replicates
from bench.regularizers import InputGradientChange, RandomPatch
from bench.status import Status
from data_prep.images import ImageData
from data_prep.one_versus_all import PixelStack

FIRST = slice(1)
WARM_UP = 0.05  # share of the steps over which the linear schedule rises
LEAST_WARM_UP = 100  # steps: many times the ten or so over which Adam averages gradients


@dataclass
class CircuitsConfig:
    """Schema of `configs/learner/circuits.yaml`.

    Parameters
    ----------
    objective : str
        ``one_class``: the squared loss of one class against all others; ``all_classes``: the cross
        entropy of ten outputs.
    learning_rate : float
        Adam's step size in units of the output's logarithm: about the most by which one step
        changes it, see `level_rates`.
    schedule : str
        ``constant``, or ``linear``: the step size rises over the first twentieth of the steps, 100
        at least, and then falls to zero. The first steps, most of which lower the outputs, thus do
        not lower them to a zero from which no gradient leads back.
    converged_below : float
        Training stops when an epoch's mean loss is under this value.
    coefficient : float
        The weight of the non-locality regularizer; 0 leaves it out.
    patch_size, patch_distance : int or None
        The regularizer's two patches are squares of this many pixels a side, at least so far
        apart; by default a quarter and an eighth of the image's side.
    """

    objective: Annotated[str, one_of(OBJECTIVES)] = "one_class"
    learning_rate: Positive = 0.3
    schedule: Annotated[str, one_of(["constant", "linear"])] = "linear"
    converged_below: Positive = 1e-8
    coefficient: NotNegative = 0.0
    patch_size: Count | None = None
    patch_distance: Annotated[int, at_least(0)] | None = None

    step: ClassVar[str] = "epoch"
    accepts: ClassVar[dict[str, type]] = {
        "data": ImageData,
        "model": CircuitConfig,
        "trainer": EpochsConfig,
    }

    def __post_init__(self) -> None:
        check_bounds("learner", self)

    def check(self, cells: Sequence[Cell], root: str | None) -> None:
        """Raise `UserError` for a variant, class, model, patch or file that does not fit."""
        check_problems(cells, root)
        for cell in cells:
            learner: CircuitsConfig = typed(cell.config["learner"], "learner")
            data: ImageData = typed(cell.config["data"], "data")
            learner._check_classes(data)
            if learner.coefficient:
                learner._check_patches(data)

    def _check_classes(self, data: ImageData) -> None:
        require(
            self.objective == "one_class" or data.target_class == 0,
            f"data.target_class={data.target_class} with learner.objective=all_classes",
            "0, as one predictor tells all classes apart",
            "set classes=[0]",
        )

    def _check_patches(self, data: ImageData) -> None:
        size, distance = self.patches(data.SIDE)
        room = (data.SIDE - size + 1) // 2 - size  # beside a first patch in the middle
        require(
            distance <= room,
            f"learner.patch_size={size} and learner.patch_distance={distance} in images of "
            f"{data.SIDE} x {data.SIDE}",
            "two patches inside the image, wherever the first lies",
            "lower the size or the distance",
        )
        require(
            data.batch_size > 1 and data.COUNTS["train"] % data.batch_size != 1,
            f"data.batch_size={data.batch_size} with learner.coefficient={self.coefficient}",
            "batches of at least 2 samples, as each takes a patch from the next",
            f"choose one that does not leave a single one of {data.COUNTS['train']} samples",
        )

    def patches(self, side: int) -> tuple[int, int]:
        """Return the patches' size and distance in images of a side."""
        size = max(1, side // 4) if self.patch_size is None else self.patch_size
        return size, side // 8 if self.patch_distance is None else self.patch_distance

    def regularizer(self, side: int, seed: int) -> InputGradientChange:
        """Return the non-locality regularizer for images of a side."""
        size, distance = self.patches(side)
        return InputGradientChange(RandomPatch(size), RandomPatch(size, distance), seed=seed)

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share: images, shapes and training, without regularizer."""
        if self.coefficient:
            return cell.run_key
        return images_key(cell, *(cell.config[name] for name in ("model", "learner", "trainer")))

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes that the images, parameters and a batch's values take."""
        data = problem_of(cells[0]).data
        count, width = _sizes(json.dumps({**cells[0].config, "seed": 0, "variant": "original"}))
        samples, pixels = sum(data.COUNTS.values()), data.SIDE**2
        # Parameter, gradient, Adam's two moments, start.
        parameters = 5 * 4 * count
        # Of every level its values, the products on the way up and their gradients; a regularized
        # step keeps two such graphs and those of their gradients.
        graphs = 4 if self.coefficient else 1
        work = 20 * graphs * data.batch_size * pixels * width
        return samples * (pixels + len(cells)) + len(cells) * (parameters + work)

    def build(
        self, cells: Sequence[Cell], trainer: EpochsConfig, root: str | None
    ) -> tuple["Circuits", PixelStack]:
        """Return a learner of the cells and the images that they share."""
        data = PixelStack([problem_of(cell) for cell in cells], root)
        return Circuits(cells, data, self, trainer), data


def circuit_of(cell: Cell) -> ConvArithmeticCircuit:
    """Return a cell's freshly started circuit."""
    data: ImageData = typed(cell.config["data"], "data")
    model: CircuitConfig = typed(cell.config["model"], "model")
    learner: CircuitsConfig = typed(cell.config["learner"], "learner")
    outputs = 1 if learner.objective == "one_class" else data.CLASSES
    return model.build((data.SIDE, data.SIDE), data.levels, outputs, cell.config["seed"])


@lru_cache(maxsize=256)
def _sizes(config: str) -> tuple[int, int]:
    """Return the number of parameters and of channels that a configuration asks for."""
    circuit = circuit_of(Cell.of(json.loads(config)))
    return circuit.parameter_count, circuit.widths[0]


def level_rates(circuit: ConvArithmeticCircuit, learning_rate: float) -> list[float]:
    """Return Adam's step size for each convolution of a circuit, leaves first, and for its output.

    An Adam step changes every weight by about its step size, and the output is a product over nodes
    of sums over their inputs. So if all weights of the leaves change alike, the output's logarithm
    changes by the step size times the number of pixels: by `learning_rate`. A node above the
    leaves changes by as much as a leaf, and the linear output by `learning_rate` again.
    """
    leaf = learning_rate / circuit.tree.order
    *inner, root = circuit.widths
    return [leaf, *(leaf / fan_in for fan_in in inner), learning_rate / root]


class Circuits(PredictorStack):
    """Trains circuits of equal shape on the same images by Adam, each as it would be alone.

    A predictor that has converged or diverged keeps the numbers and weights that it had then.

    Parameters are those of `PredictorStack`.
    """

    def __init__(
        self, cells: Sequence[Cell], data: PixelStack, config: CircuitsConfig, trainer: EpochsConfig
    ) -> None:
        super().__init__(cells, data, config, trainer)
        self.objective: Objective = OBJECTIVES[config.objective]
        circuits = [circuit_of(cell) for cell in cells]
        self.stacked = len(circuits) > 1
        self.network = stack_replicates(circuits) if self.stacked else circuits[0]
        self.regularizer = None
        if config.coefficient:
            self.regularizer = config.regularizer(data.data.SIDE, cells[0].config["seed"])
        self.rates = level_rates(self.network, config.learning_rate)
        self.register_buffer("penalty", torch.tensor(0.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam with a group of its own for each level."""
        levels = [*self.network.convolutions, self.network.root_weights]
        groups = [
            {"params": [weights], "lr": rate}
            for weights, rate in zip(levels, self.rates, strict=True)
        ]
        return torch.optim.Adam(groups, fused=True)

    def channels(self) -> int:
        """Return the channels after the leaves' convolution, of all predictors."""
        return self.network.widths[0] * len(self.cells)

    def images(self, pixels: Tensor) -> Tensor:
        """Return quantized pixels, shape (batch, pixels), as the images that the circuits read."""
        side, levels = self.data.data.SIDE, self.data.data.levels
        images = pixels.unflatten(1, (1, side, side))
        return images if self.network.levels else images / (levels - 1)

    def outputs(self, images: Tensor) -> Tensor:
        """Return every predictor's outputs, shape (predictors, batch) or (..., classes)."""
        outputs = self.network(images)
        return outputs if self.stacked else outputs.unsqueeze(0)

    def train_epoch(self, batches: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Step through an epoch's batches and keep each predictor's mean loss."""
        losses, penalties, samples = torch.zeros_like(self.losses), 0.0, 0
        for i, indices in enumerate(batches):
            self._set_rates(optimizer, int(self.epoch) * len(batches) + i, len(batches))
            loss, penalty = self.train_step(indices, optimizer)
            losses += loss * len(indices)
            penalties = penalties + penalty * len(indices)
            samples += len(indices)
        self.losses = losses / samples
        self.penalty = penalties / samples + torch.zeros_like(self.penalty)
        self.last_finite_losses = self.losses.where(self.losses.isfinite(), self.last_finite_losses)

    def _set_rates(self, optimizer: torch.optim.Optimizer, step: int, steps_an_epoch: int) -> None:
        share = 1.0
        if self.config.schedule == "linear":
            steps = self.limits.max_epochs * steps_an_epoch
            rise = max(LEAST_WARM_UP, WARM_UP * steps)
            share = (1 - step / steps) * min(1.0, (step + 1) / rise)
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

    def train_step(
        self, indices: Tensor, optimizer: torch.optim.Optimizer
    ) -> tuple[Tensor, Tensor]:
        """Take one step of every predictor.

        Parameters
        ----------
        indices : Tensor
            Shape (batch,), int64: the samples of the batch.
        optimizer : Optimizer
            Over the parameters of the circuits.

        Returns
        -------
        losses : Tensor
            Shape (predictors,): mean losses before the step, without the penalty.
        penalty : Tensor
            Scalar: the regularizer's penalty, 0 if there is none.
        """
        part, indices = self.parts["train"], indices.to(self.device)
        images = self.images(part.inputs[indices])
        if self.regularizer is not None:
            if self.network.levels:
                images = self.network.one_hot(images)
            images.requires_grad_()
        outputs = self._outputs_that_do_not_vanish(images)
        losses = self.objective.losses(outputs, part, indices).mean(1)
        penalty = torch.zeros_like(self.penalty)
        if self.regularizer is not None:
            labels = part.problem_labels(FIRST, indices).long().squeeze(0)
            penalty = self.regularizer(self.network, images, outputs.squeeze(0), labels)
        (losses.sum() + self.config.coefficient * penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
        return losses.detach(), penalty.detach()

    def _outputs_that_do_not_vanish(self, images: Tensor) -> Tensor:
        """Keep a network that vanishes in training from looking like a user's mistake."""
        try:
            return self.outputs(images)
        except UserError as error:
            raise FloatingPointError(f"{error}; or lower learner.learning_rate") from error

    @torch.no_grad()
    def errors(self, name: str) -> Tensor:
        """Return each predictor's mean error on a part of the data.

        On test data each sample counts at most 1 [TF, appendix].
        """
        part, batch = self.parts[name], self.data.data.batch_size
        total = torch.zeros_like(self.losses)
        for start in range(0, len(part), batch):
            chosen = slice(start, start + batch)
            outputs = self.outputs(self.images(part.inputs[chosen]))
            errors = self.objective.errors(outputs, part, chosen)
            total += (errors.clamp(max=1) if name == "test" else errors).sum(1)
        return total / len(part)

    def measure(self) -> None:
        """Add a point to the curves of the predictors that train."""
        self._measure_some(self.training_places())

    def _measure_some(self, places: Sequence[int]) -> None:
        columns = {"train_loss": self.losses, "train_error": self.errors("train")}
        columns["test_error"] = self.errors("test")
        if self.regularizer is not None:
            columns["penalty"] = self.penalty.expand_as(self.losses)
        chosen = torch.tensor(places, device=self.device)
        self.add_points(places, {name: each[chosen] for name, each in columns.items()})

    def end_early(self, statuses: Mapping[int, Status], optimizer: torch.optim.Optimizer) -> None:
        """End the predictors that have converged or diverged."""
        if statuses:
            self._measure_some(list(statuses))
            self._end_some(statuses)

    def end(self, status: Status) -> None:
        """Give the predictors that train their outcomes."""
        self._end_some(dict.fromkeys(self.training_places(), status))

    def _end_some(self, statuses: Mapping[int, Status]) -> None:
        """Give some predictors their outcomes; those that have diverged are not measured."""
        sound = [i for i, status in statuses.items() if status is not Status.DIVERGED]
        columns = {name: each.tolist() for name, each in self.measures(sound).items()}
        measures = {i: {name: columns[name][at] for name in columns} for at, i in enumerate(sound)}
        constants = self.objective.constant_errors(self.parts["train"]).tolist()
        sizes = {"parameters": self.network.parameter_count, "channels": self.network.widths[-1]}
        for i, status in statuses.items():
            metrics = {**measures.get(i, {}), "constant_error": constants[i], **sizes}
            self.end_one(i, status, metrics, self._weights(i))

    def _weights(self, i: int) -> dict[str, Tensor]:
        named = {name: each.detach().cpu() for name, each in self.network.named_parameters()}
        return {name: (w[i] if self.stacked else w).clone() for name, w in named.items()}

    @torch.no_grad()
    def measures(self, members: Sequence[int]) -> dict[str, Tensor]:
        """Return what the theory speaks of, for some predictors, rising, shape (members,).

        See `bench.measures.locality.locality`; and ``hierarchical_rank``, the greatest effective
        rank of a matricization at a node of the tree. Means over the outputs, if there are several.
        """
        if not members:
            return {}
        circuits = copy.deepcopy(self.network)
        if self.stacked:
            chosen = torch.zeros(len(self.cells), dtype=torch.bool, device=self.device)
            chosen[list(members)] = True
            select_replicates(circuits, chosen)
        part, side = self.parts["test"], self.data.data.SIDE

        def network(batch: Tensor) -> Tensor:
            outputs = circuits(self.images(batch.flatten(1)))
            outputs = outputs if self.stacked else outputs.unsqueeze(0)
            return outputs.movedim(1, 0).flatten(1)

        found = locality(network, part.inputs.unflatten(1, (side, side)))
        means = {name: each.view(len(members), -1).mean(1) for name, each in found.items()}
        ranks = [_hierarchical_rank(circuits, output) for output in range(circuits.outputs)]
        return {**means, "hierarchical_rank": torch.stack(ranks).mean(0).view(len(members))}


def _hierarchical_rank(circuit: ConvArithmeticCircuit, output: int) -> Tensor:
    ranks = circuit.factorization(output).effective_ranks()
    return torch.stack(list(ranks.values())).amax(0)
