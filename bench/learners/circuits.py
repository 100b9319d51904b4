"""Convolutional arithmetic circuits on images, for all that differ in seed and class at once."""

import copy
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from bench.core.cell import Cell
from bench.core.errors import require
from bench.core.settings import Count, Factory, Natural, Positive, settings
from bench.core.status import Status
from bench.learners.base import LearnerConfig, Outcome, as_points
from bench.learners.interval import ELEMENTWISE
from bench.learners.losses import LOSSES
from bench.learners.network import GROUPS, Batch, NetworkLearner, check_trainers, is_regularized
from bench.measures.locality import locality
from bench.models.arithmetic_circuit import CircuitConfig, ConvArithmeticCircuit
from bench.models.replicates import select_replicates, stack_replicates
from bench.regularizers import RandomPatch
from data_prep.images import ImageData
from data_prep.one_versus_all import EVERYTHING, Part, check_problems, images_key, read_parts

WARM_UP = 0.05  # share of the steps over which the linear schedule rises
LEAST_WARM_UP = 100  # steps: many times the ten or so over which Adam averages gradients


@settings
class CircuitsConfig(LearnerConfig):
    """Settings of `configs/learner/circuits.yaml`.

    The optimizer's learning rate is in units of the output's logarithm: with Adam about the most by
    which one step changes it, see `level_rates`.

    Parameters
    ----------
    objective : str
        ``one_class``: the squared loss of one class against all others; ``all_classes``: the cross
        entropy of one output per class.
    schedule : str
        ``constant``, or ``linear``: the learning rate rises over the first twentieth of the steps,
        at least 100, and then falls to zero. The first steps, most of which lower the outputs, thus
        do not lower them to a zero from which no gradient leads back.
    converged_below : float
        Training stops when an epoch's mean loss is under this value.
    patch_size, patch_distance : int or None
        The regularizer's two patches are squares with sides of this many pixels, at least so far
        apart; by default a quarter and an eighth of the image's side.
    """

    objective: Literal["one_class", "all_classes"] = "one_class"
    schedule: Literal["constant", "linear"] = "linear"
    converged_below: Positive = 1e-8
    patch_size: Count | None = None
    patch_distance: Natural | None = None

    name: ClassVar[str] = "circuits"
    accepts: ClassVar[dict[str, type]] = {"data": ImageData, "model": CircuitConfig} | GROUPS

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise `UserError` for a variant, class, model, patch, file or Trainer that is unfit."""
        check_problems(cells)
        for cell in cells:
            given = f"{cell.data.name} of shape {cell.data.image_shape} with learner={self.name}"
            require(len(cell.data.image_shape) == 2, given, "images of one channel")
            target = cell.data.target_class
            given = f"data.target_class={target} with learner.objective=all_classes"
            expected = "0, as one predictor tells all classes apart"
            fits = self.objective == "one_class" or target == 0
            require(fits, given, expected, "set classes=[0]")
            if is_regularized(cell):
                self._check_patches(cell.data)
        epochs = {(cell.data.counts["train"], cell.data.batch_size) for cell in cells}
        check_trainers(cells, epochs)

    def _check_patches(self, data: ImageData) -> None:
        (height, width), (_, second) = data.image_shape, self.patches(data)
        size, distance = second.size, second.distance
        room = (min(height, width) - size + 1) // 2 - size  # beside a first patch in the middle
        given = f"learner.patch_size={size} and learner.patch_distance={distance} in images of "
        expected = "two patches inside the image, wherever the first lies"
        hint = "lower the size or the distance"
        require(distance <= room, f"{given}{height} x {width}", expected, hint)
        samples, batch = data.counts["train"], data.batch_size
        given = f"data.batch_size={batch} with a regularizer"
        expected = "batches of at least 2 samples, as each takes a patch from the next"
        hint = f"choose one that does not leave a single one of {samples} samples"
        require(batch > 1 and samples % batch != 1, given, expected, hint)

    def patches(self, data: ImageData) -> tuple[RandomPatch, RandomPatch]:
        """Return the regularizer's patches A and B."""
        side = min(data.image_shape)
        size = max(1, side // 4) if self.patch_size is None else self.patch_size
        distance = side // 8 if self.patch_distance is None else self.patch_distance
        return RandomPatch(size), RandomPatch(size, distance)

    def stack_key(self, cell: Cell) -> str:
        """Return what cells must share: images, shapes and training, without regularizer."""
        arguments = cell.trainer.arguments
        together = cell.optimizer.name in ELEMENTWISE and not arguments.get("gradient_clip_val")
        if is_regularized(cell) or not together:
            return cell.run_key
        names = ("model", "learner", "optimizer", "trainer")
        return images_key(cell, *(cell.config[name] for name in names))

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes that the images, parameters and a batch's values take."""
        cell = cells[0]
        count, width = _sizes(cell.model, cell.data, self.outputs(cell.data))
        samples, pixels = sum(cell.data.counts.values()), cell.data.pixels
        # Parameter, gradient, Adam's two moments, start.
        parameters = 5 * 4 * count
        # Of every level its values, the products on the way up and their gradients; a regularized
        # step keeps two such graphs and those of their gradients.
        graphs = 4 if is_regularized(cell) else 1
        work = 20 * graphs * cell.data.batch_size * pixels * width
        return samples * (pixels + len(cells)) + len(cells) * (parameters + work)

    def outputs(self, data: ImageData) -> int:
        """Return how many outputs a circuit has."""
        return 1 if self.objective == "one_class" else data.classes

    def module(self, cell: Cell) -> ConvArithmeticCircuit:
        """Return a freshly started circuit."""
        data = cell.data
        return cell.model.build(data.image_shape, data.levels, self.outputs(data), cell.seed)

    def build(self, cells: Sequence[Cell]) -> "Circuits":
        """Return a learner of the cells."""
        return Circuits(cells, read_parts(cells))


@lru_cache(maxsize=256)
def _sizes(model: CircuitConfig, data: ImageData, outputs: int) -> tuple[int, int]:
    """Return the number of a circuit's parameters and of its channels."""
    circuit = model.build(data.image_shape, data.levels, outputs, 0)
    return circuit.parameter_count, circuit.width


def level_rates(circuit: ConvArithmeticCircuit, learning_rate: float) -> list[float]:
    """Return the learning rate of each convolution of a circuit, leaves first, and of its output.

    An Adam step changes every weight by about its learning rate, and the output is a product over
    nodes of sums over their inputs. So if all weights of the leaves change alike, the output's
    logarithm changes by the learning rate times the number of pixels: by `learning_rate`. A node
    above the leaves changes by as much as a leaf, and the linear output by `learning_rate` again.
    """
    leaf, fan_in = learning_rate / circuit.tree.order, circuit.width
    return [leaf, *[leaf / fan_in] * (circuit.tree.depth - 1), learning_rate / fan_in]


class Circuits(NetworkLearner):
    """Trains circuits of equal shape on the same images, each as it would be alone.

    A predictor that has converged or diverged keeps the numbers and weights that it had then.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal stack keys.
    parts : dict of str to Part
        Their samples called ``"train"`` and ``"test"``.
    """

    validated = ("train", "test")
    network: ConvArithmeticCircuit

    def __init__(self, cells: Sequence[Cell], parts: Mapping[str, Part]) -> None:
        data: ImageData = cells[0].data
        super().__init__(cells, parts, data.batch_size, data.order_seed)
        self.data = data
        self.loss = LOSSES[self.cell.learner.objective]
        circuits = [self.cell.learner.module(cell) for cell in cells]
        self.stacked = len(circuits) > 1
        self.network = stack_replicates(circuits) if self.stacked else circuits[0]
        train = parts["train"]
        self.classes = nn.Buffer(train.classes)
        labels = train.problem_labels(EVERYTHING)
        self.constant_errors = self.loss.constant_errors(labels, train.classes).tolist()
        self.losses = nn.Buffer(torch.full((len(cells),), torch.nan))
        self.last_finite_losses: Tensor = nn.Buffer(self.losses.clone())

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the optimizer with one group per level, and its schedule."""
        optimizer: Factory = self.cell.optimizer
        rate = optimizer.arguments.get("lr", optimizer.defaults["lr"])
        levels = [*self.network.convolutions, self.network.root_weights]
        rates = zip(levels, level_rates(self.network, rate), strict=True)
        made = optimizer([{"params": [weights], "lr": rate} for weights, rate in rates])
        if self.cell.learner.schedule == "constant":
            return {"optimizer": made}
        steps = self.trainer.estimated_stepping_batches
        rise = max(LEAST_WARM_UP, WARM_UP * steps)

        def share(step: int) -> float:
            return max(0.0, 1 - step / steps) * min(1.0, (step + 1) / rise)

        schedule = LambdaLR(made, share)
        return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def images(self, pixels: Tensor) -> Tensor:
        """Return quantized pixels, shape (batch, pixels), as the images that the circuits read."""
        images = pixels.unflatten(1, (1, *self.data.image_shape))
        return images if self.network.levels else images / (self.data.levels - 1)

    def _stacked(self, outputs: Tensor) -> Tensor:
        """Return outputs as every predictor's, shape (predictors, batch) or (..., classes)."""
        return outputs if self.stacked else outputs.unsqueeze(0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the predictors' losses, with the regularizer's penalty."""
        pixels, labels = batch
        images, due = self.images(pixels), self.penalty_due(batch_idx)
        if due and self.network.levels:
            images = self.network.one_hot(images)
        outputs, penalty = self.evaluate(images, labels[0], due)
        labels = labels[:, self.own(len(pixels))]
        losses = self.loss.losses(self._stacked(outputs), labels, self.classes).mean(1)
        return self.penalized(losses.sum(), losses.detach(), penalty, len(pixels))

    def on_train_epoch_end(self) -> None:
        """Keep each predictor's mean loss."""
        super().on_train_epoch_end()
        self.losses.copy_(self.means[:-1])
        self.last_finite_losses = self.losses.where(self.losses.isfinite(), self.last_finite_losses)
        self.log("train_loss", self.losses.mean(), sync_dist=True)

    def score(self, batch: Batch, name: str) -> Tensor:
        """Return each predictor's errors; on test data a sample counts at most 1 [TF, appendix]."""
        pixels, labels = batch
        outputs = self._stacked(self.network(self.images(pixels)))
        errors = self.loss.errors(outputs, labels, self.classes)
        return (errors.clamp(max=1) if name == "test" else errors).sum(1)

    def errors(self, name: str) -> Tensor:
        """Return each predictor's mean error on a part, shape (predictors,)."""
        return self.total(name) / len(self.parts[name])

    def on_validation_epoch_end(self) -> None:
        """Tell Lightning, for callbacks that monitor it."""
        super().on_validation_epoch_end()
        for name in self.validated:
            self.log(f"{name}_error", self.errors(name).mean(), sync_dist=True)

    def ended(self) -> dict[int, Status]:
        """Return which predictors have converged or diverged of those that trained."""
        return self.run_log.ended(self.losses, self.losses < self.cell.learner.converged_below)

    def measure(self, indices: Sequence[int], statuses: Mapping[int, Status]) -> None:
        """Log points, and the outcomes of the predictors that have ended."""
        columns = {"train_loss": self.losses.tolist()}
        columns |= {f"{name}_error": self.errors(name).tolist() for name in self.validated}
        for index in indices:
            point = {name: values[index] for name, values in columns.items()}
            point |= {"penalty": float(self.means[-1])} if self.regularizer is not None else {}
            self.run_log.add_point(index, {"epoch": self.epochs_done, **point})
        # Those that have diverged are not measured.
        sound = [index for index, status in statuses.items() if status is not Status.DIVERGED]
        found = self.measures(sound)
        weights = self.network.state_dict().items()
        for index, status in statuses.items():
            last = {"last_finite_loss": float(self.last_finite_losses[index])}
            metrics = {
                **self.run_log.curves[index][-1],
                "constant_error": self.constant_errors[index],
                "parameters": self.network.parameter_count,
                "channels": self.network.width,
                **found.get(index, last),
            }
            own = {name: (w[index] if self.stacked else w).cpu().clone() for name, w in weights}
            self.run_log.end(index, Outcome(status, metrics, own))

    @torch.no_grad()
    def measures(self, members: Sequence[int]) -> dict[int, dict[str, float]]:
        """Return what the theory speaks of, for some predictors, rising.

        See `bench.measures.locality.locality`; and ``hierarchical_rank``, the greatest effective
        rank of a matricization at a node of the tree. Means over the outputs, if there are several.
        """
        if not members:
            return {}
        circuits = copy.deepcopy(self.network)
        if self.stacked:
            chosen = torch.zeros(len(self.run_log.cells), dtype=torch.bool, device=self.device)
            chosen[list(members)] = True
            select_replicates(circuits, chosen)

        def network(images: Tensor) -> Tensor:
            outputs = self._stacked(circuits(self.images(images.flatten(1))))
            return outputs.movedim(1, 0).flatten(1)

        found = locality(network, self.parts["test"].inputs.unflatten(1, self.data.image_shape))
        columns = {name: values.view(len(members), -1).mean(1) for name, values in found.items()}
        factorizations = map(circuits.factorization, range(circuits.outputs))
        ranks = [torch.stack([*each.effective_ranks().values()]) for each in factorizations]
        columns["hierarchical_rank"] = torch.stack(ranks).amax(1).mean(0).view(len(members))
        return dict(zip(members, as_points(columns), strict=True))
