"""Networks that tell two classes of images apart, with or without the non-locality regularizer."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional

from bench.bounds import BelowOne, Count, NotNegative, Positive, at_least, check_bounds
from bench.config import Cell, typed
from bench.errors import require
from bench.learners.base import EpochsConfig, Learner, Outcome
from bench.measures.locality import SAMPLES, locality
from bench.measures.receptive_field import receptive_field
from bench.models.network import NetworkConfig
from bench.regularizers import InputGradientChange
from bench.seeding import derive_seed, generator
from bench.status import Status
from data_prep.intervals import Intervals
from data_prep.labelled_images import LabelledImages, LabelledPart

PROBES = 256  # test images on which a trained network's penalty is measured


@dataclass
class ClassificationConfig:
    """Schema of `configs/learner/classification.yaml`; the defaults are published [HTF].

    Parameters
    ----------
    learning_rate, momentum, weight_decay : float
        Those of stochastic gradient descent on the binary cross entropy.
    batch_size : int
        Training images a step.
    patience : int
        Training stops so many epochs after the first in which every image was classified rightly.
    coefficient : float
        The weight of the non-locality regularizer; 0 leaves it out.
    freeze_statistics, patches_per_sample, swap_differing : bool
        Departures from the published regularizer; see `InputGradientChange`.
    regularize_every : int
        Steps from one with the regularizer to the next; its weight is multiplied by as much.
    """

    learning_rate: Positive = 0.01
    momentum: BelowOne = 0.9
    weight_decay: NotNegative = 0.0
    batch_size: Annotated[int, at_least(2)] = 64
    patience: Annotated[int, at_least(0)] = 20
    coefficient: NotNegative = 0.0
    freeze_statistics: bool = False
    patches_per_sample: bool = False
    swap_differing: bool = False
    regularize_every: Count = 1

    step: ClassVar[str] = "epoch"
    accepts: ClassVar[dict[str, type]] = {
        "data": LabelledImages,
        "model": NetworkConfig,
        "trainer": EpochsConfig,
    }

    def __post_init__(self) -> None:
        check_bounds("learner", self)

    def check(self, cells: Sequence[Cell], root: str | None) -> None:
        """Raise `UserError` for files, counts or a model that do not fit."""
        for data in {repr(each): each for each in (_data(cell) for cell in cells)}.values():
            given = f"data.train={data.train} with learner.batch_size={self.batch_size}"
            require(data.train % self.batch_size != 1, given, "no batch of a single image")
            least = 2 * SAMPLES
            require(data.test >= least, f"data.test={data.test}", f"at least {least}, to measure")
            data.files(root)
        for config in {_shape_of(cell) for cell in cells}:
            _measured(config)  # a network that cannot read the images says so

    def stack_key(self, cell: Cell) -> str:
        """Return the run key: each network trains alone."""
        return cell.run_key

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes that parameters and one batch's values take."""
        parameters, values = _measured(_shape_of(cells[0]))
        # Parameter, gradient, momentum and the recorded copy; a regularized step keeps two
        # graphs and those of their gradients.
        graphs = 4 if self.coefficient else 1
        return 16 * parameters + 4 * graphs * self.batch_size * values

    def build(
        self, cells: Sequence[Cell], trainer: EpochsConfig, root: str | None
    ) -> tuple["Classification", LightningDataModule]:
        """Return the learner of a cell, which holds its data itself."""
        (cell,) = cells
        warn_if_blind(cell)
        data, seed = _data(cell), cell.config["seed"]
        parts = {name: data.part(root, name, seed) for name in ("train", "test")}
        return Classification(cell, self, trainer, parts), Intervals()


def _data(cell: Cell) -> LabelledImages:
    return typed(cell.config["data"], "data")


def network_of(cell: Cell) -> nn.Module:
    """Return a cell's freshly started network, with one output."""
    model: NetworkConfig = typed(cell.config["model"], "model")
    return model.build(_data(cell).image_shape, 2, 1, cell.config["seed"])


def _shape_of(cell: Cell) -> str:
    """Return what the size of a cell's network and of its values depends on."""
    return json.dumps({"model": cell.config["model"], "data": cell.config["data"], "seed": 0})


@lru_cache(maxsize=256)
def _measured(config: str) -> tuple[int, float]:
    """Return how many parameters a network has, and values it keeps for an image's gradient."""
    cell = Cell.of(json.loads(config))
    network, kept = network_of(cell), 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    images = torch.rand(2, 1, *_data(cell).image_shape)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        network(images)
    parameters = sum(each.numel() for each in network.parameters())
    return parameters, kept / len(images)


@lru_cache(maxsize=256)
def coverage(config: str) -> tuple[list[int], bool]:
    """Return a network's receptive field, and whether one unit sees all that is to be related.

    Parameters
    ----------
    config : str
        The model and the data, as JSON.

    Returns
    -------
    field : list of int
        Height and width of what the unit that sees most sees, at most those of the image.
    covers : bool
        Whether it is all rows and columns of `LabelledImages.extent`.
    """
    cell = Cell.of(json.loads(config))
    data = _data(cell)
    seen, extent = receptive_field(network_of(cell), data.image_shape), data.extent
    if seen is None:
        return list(data.image_shape), True
    rows, columns = seen[0][:, extent.rows], seen[1][:, extent.columns]
    field = [int(lines.sum(1).max()) for lines in seen]
    return field, bool(rows.all(1).any() and columns.all(1).any())


def warn_if_blind(cell: Cell) -> None:
    """Say so if no unit before the global pooling sees all that is to be related."""
    (height, width), covers = coverage(_shape_of(cell))
    extent = _data(cell).extent
    if not covers:
        print(
            f"warning: the network's receptive field is {height} x {width} pixels, what it is to"
            f" relate takes {extent.height} x {extent.width}: no unit sees all of it, and what no"
            " unit sees together the network can only add up; take more layers or larger strides",
            file=sys.stderr,
        )


class Classification(Learner):
    """Trains a network by stochastic gradient descent on the binary cross entropy.

    Parameters
    ----------
    cell : Cell
        What is trained.
    config : ClassificationConfig
        Optimizer, regularizer and stop criterion.
    trainer : EpochsConfig
        The number of epochs at most, and of those between two measurements.
    parts : dict of str to LabelledPart
        The images called ``"train"`` and ``"test"``.
    """

    epoch: Tensor
    perfect_at: Tensor
    loss: Tensor

    def __init__(
        self,
        cell: Cell,
        config: ClassificationConfig,
        trainer: EpochsConfig,
        parts: dict[str, LabelledPart],
    ) -> None:
        super().__init__([cell])
        self.automatic_optimization = False
        self.config = config
        self.limits = trainer
        self.seed = cell.config["seed"]
        self.network = network_of(cell)
        self.regularizer = InputGradientChange(
            *_data(cell).patches,
            freeze_statistics=config.freeze_statistics,
            patches_per_sample=config.patches_per_sample,
            swap_differing=config.swap_differing,
            seed=self.seed,
        )
        self.register_buffer("epoch", torch.tensor(0))
        self.register_buffer("perfect_at", torch.tensor(-1))  # the first such epoch
        self.register_buffer("loss", torch.tensor(torch.nan))
        self.parts = parts  # not a module: a checkpoint need not hold the images

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return stochastic gradient descent."""
        config, weights = self.config, self.network.parameters()
        rate, decay = config.learning_rate, config.weight_decay
        return torch.optim.SGD(weights, rate, config.momentum, weight_decay=decay)

    def on_fit_start(self) -> None:
        """Bring the data to the device."""
        self.parts = {name: part.to(self.device) for name, part in self.parts.items()}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Train for one interval, then measure."""
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        every = self.limits.log_every_n_epochs
        point, status = {}, None
        for epoch in range(int(self.epoch), int(self.epoch) // every * every + every):
            point = self.train_epoch(epoch, optimizer)
            self.epoch += 1
            status = self._status(point)
            if status is not None:
                break
        if status is not Status.DIVERGED:
            point["test_accuracy"] = self.accuracy("test")
        self.curves[0].append({"epoch": int(self.epoch), **point})
        if status is not None:
            self._end(status)
            self.trainer.should_stop = True

    def train_epoch(self, epoch: int, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Pass through the training images; return means over the epoch's steps.

        Batches and dropout depend on seed and epoch alone, so that a resumed run goes on alike.
        """
        self.network.train()
        torch.manual_seed(derive_seed(self.seed, "dropout", epoch))
        count = len(self.parts["train"])
        order = torch.randperm(count, generator=generator(self.seed, "batch order", epoch))
        batches = order.to(self.device).split(self.config.batch_size)
        sums = torch.zeros(3, device=self.device)
        for step, indices in enumerate(batches, epoch * len(batches)):
            sums += self.train_step(indices, optimizer, step) * len(indices)
        loss, accuracy, penalty = (sums / count).tolist()
        self.loss.fill_(loss)
        point = {"train_loss": loss, "train_accuracy": accuracy}
        return {**point, "train_penalty": penalty} if self.config.coefficient else point

    def train_step(self, indices: Tensor, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
        """Take one step.

        Parameters
        ----------
        indices : Tensor
            Shape (batch,), int64: the training images of the batch.
        optimizer : Optimizer
            Over the network's parameters.
        step : int
            How many steps came before.

        Returns
        -------
        Tensor
            Shape (3,): the loss without penalty, the share of images classified rightly and the
            penalty, 0 where it was not computed; all before the step.
        """
        part, every = self.parts["train"], self.config.regularize_every
        images, labels = part(indices), part.labels[indices]
        regularized = self.config.coefficient > 0 and step % every == 0
        penalty = torch.zeros((), device=self.device)
        if regularized:
            outputs, penalty = self.regularizer.evaluate(self.network, images, labels)
        else:
            outputs = self.network(images)
        logits = outputs.flatten()
        loss = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        optimizer.zero_grad()
        (loss + self.config.coefficient * every * penalty).backward()
        optimizer.step()
        right = ((logits > 0) == labels).float().mean()
        return torch.stack([loss.detach(), right, penalty.detach() * every])

    def _status(self, point: dict[str, float]) -> Status | None:
        """Say whether training is at its end, and note the first perfect epoch."""
        if not point["train_loss"] < float("inf"):
            return Status.DIVERGED
        if self.perfect_at < 0 and point["train_accuracy"] == 1:
            self.perfect_at.copy_(self.epoch)
        if self.perfect_at >= 0 and self.epoch - self.perfect_at >= self.config.patience:
            return Status.CONVERGED
        return Status.MAX_STEPS if self.epoch >= self.limits.max_epochs else None

    @torch.no_grad()
    def accuracy(self, name: str) -> float:
        """Return the share of a part's images that the network classifies rightly."""
        self.network.eval()
        part = self.parts[name]
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for indices in torch.arange(len(part), device=self.device).split(self.config.batch_size):
            right += ((self.network(part(indices)).flatten() > 0) == part.labels[indices]).sum()
        return int(right) / len(part)

    def measures(self) -> dict[str, float]:
        """Return what is measured of a trained network alone, on test images.

        ``penalty`` is the published regularizer's, in evaluation mode; the others are described at
        `bench.measures.locality.locality`.
        """
        self.network.eval()
        part = self.parts["test"]
        # Evenly spaced, as the classes may stand one after the other.
        count = min(PROBES, len(part))
        probes = torch.arange(count, device=self.device) * len(part) // count
        published = InputGradientChange(*_data(self.cells[0]).patches, seed=self.seed)
        penalties = []
        with torch.no_grad():
            for indices in probes.split(min(self.config.batch_size, SAMPLES)):
                images, labels = part(indices), part.labels[indices]
                outputs = self.network(images)
                penalties.append(published(self.network, images, outputs, labels))
            found = locality(
                lambda images: self.network(images.unsqueeze(1)).flatten(),
                part(probes[:: count // (2 * SAMPLES)]).squeeze(1),
            )
        ranks = {name: float(value) for name, value in found.items()}
        return {"penalty": float(torch.stack(penalties).mean()), **ranks}

    def _end(self, status: Status) -> None:
        (height, width), covers = coverage(_shape_of(self.cells[0]))
        metrics: dict[str, float] = {
            **self.curves[0][-1],
            "parameters": sum(each.numel() for each in self.network.parameters()),
            "receptive_field_height": height,
            "receptive_field_width": width,
            "covers": float(covers),
        }
        if status is not Status.DIVERGED:
            metrics |= {"train_accuracy": self.accuracy("train"), **self.measures()}
            metrics["generalization_gap"] = metrics["train_accuracy"] - metrics["test_accuracy"]
        weights = self.network.state_dict().items()
        self.outcomes[0] = Outcome(
            status, metrics, {name: each.detach().cpu().clone() for name, each in weights}
        )

    def progress(self) -> tuple[float, float]:
        """Return the share of epochs done and the mean loss of the last one."""
        return int(self.epoch) / self.limits.max_epochs, float(self.loss)
