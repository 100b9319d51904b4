"""Networks that tell two classes of images apart, with or without the non-locality regularizer."""

import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.core.cell import Cell
from bench.core.errors import expecting, require
from bench.core.settings import AtLeastTwo, Count, settings
from bench.core.status import Status
from bench.learners.base import LearnerConfig, Outcome, sizes
from bench.learners.network import GROUPS, Batch, NetworkLearner, check_trainers, is_regularized
from bench.measures.locality import SAMPLES, locality
from bench.measures.receptive_field import receptive_field
from bench.models.network import NetworkConfig
from bench.regularizers import InputGradientChange, PatchSampler
from data_prep.labeled_images import LabeledImages, LabeledPart

PROBES = 256  # images of a part on which a network is measured


@settings
class ClassificationConfig(LearnerConfig):
    """Settings of `configs/learner/classification.yaml`; the defaults are published [HTF].

    The loss is the binary cross entropy.

    Parameters
    ----------
    batch_size : int
        Training images of a step.
    patience : int
        Training stops after this many epochs in a row in which every image was right.
    mirror : bool
        Whether each training image is mirrored, left to right, with probability 1/2.
    """

    batch_size: AtLeastTwo = 64
    patience: Count = 21
    mirror: bool = False

    later: ClassVar[frozenset[str]] = frozenset({"mirror"})
    name: ClassVar[str] = "classification"
    accepts: ClassVar[dict[str, type]] = {"data": LabeledImages, "model": NetworkConfig} | GROUPS

    def check(self, cells: Sequence[Cell]) -> None:
        """Raise `UserError` for files, counts, a model or a Trainer that do not fit."""
        for model, data in {(cell.model, cell.data) for cell in cells}:
            given = f"data.train={data.train} with learner.batch_size={self.batch_size}"
            require(data.train % self.batch_size != 1, given, "no batch of a single image")
            least = 2 * SAMPLES
            require(data.test >= least, f"data.test={data.test}", f"at least {least}, to measure")
            kind = {1: "gray images", 3: "images in color"}[data.channels]
            channels = getattr(model, "channels", 1)
            given = f"model.channels={channels} with {kind}"
            require(channels == data.channels, given, f"model.channels={data.channels}")
            given = f"model={model.name} with images of {data.image_shape}"
            with expecting(given, "a network that can read the images"):
                _sizes(model, data)
        for data, place in {cell.data.of_run(cell.seed): cell.execution for cell in cells}.items():
            data.files(place.root, workers=place.workers)
        check_trainers(cells, {(cell.data.train, self.batch_size) for cell in cells})

    def patches(self, data: LabeledImages) -> tuple[PatchSampler, PatchSampler]:
        """Return the regularizer's patches A and B."""
        return data.patches

    def stack_key(self, cell: Cell) -> str:
        """Return the run key: each network trains alone."""
        return cell.run_key

    def memory(self, cells: Sequence[Cell]) -> float:
        """Return the bytes that the network's state and one batch's values take."""
        (cell,) = cells
        parameters, values = _sizes(cell.model, cell.data)
        # Parameter, gradient, momentum and the recorded copy; a regularized step keeps two
        # graphs and those of their gradients.
        graphs = 4 if is_regularized(cell) else 1
        return 4 * parameters + graphs * self.batch_size * values

    def module(self, cell: Cell) -> nn.Module:
        """Return a freshly started network, with one output."""
        return cell.model.build(cell.data.image_shape, 2, 1, cell.seed)

    def build(self, cells: Sequence[Cell]) -> "NetworkClassifier":
        """Return the learner of a cell."""
        (cell,) = cells
        warn_if_blind(cell.model, cell.data)
        root = cell.execution.root
        parts = {name: cell.data.part(root, name, cell.seed) for name in ("train", "test")}
        return NetworkClassifier(cell, parts)


@lru_cache(maxsize=256)
def _sizes(model: NetworkConfig, data: LabeledImages) -> tuple[int, int]:
    images = torch.rand(4, data.channels, *data.image_shape)
    return sizes(model.build(data.image_shape, 2, 1, 0), images)


@lru_cache(maxsize=256)
def coverage(model: NetworkConfig, data: LabeledImages) -> tuple[tuple[int, int], bool]:
    """Return a network's receptive field, and whether one unit sees all that is to be related.

    Returns
    -------
    field : (int, int)
        Height and width of what the unit that sees most sees, at most those of the image.
    covers : bool
        Whether it is all rows and columns of `LabeledImages.extent`.
    """
    network = model.build(data.image_shape, 2, 1, 0)
    seen, extent = receptive_field(network, data.image_shape, data.channels), data.extent
    if seen is None:
        return data.image_shape, True
    rows, columns = seen[0][:, extent.rows], seen[1][:, extent.columns]
    height, width = (int(lines.sum(1).max()) for lines in seen)
    return (height, width), bool(rows.all(1).any() and columns.all(1).any())


def warn_if_blind(model: NetworkConfig, data: LabeledImages) -> None:
    """Warn if no unit before the global pooling sees all that is to be related."""
    (height, width), covers = coverage(model, data)
    if not covers:
        print(
            f"warning: the network's receptive field is {height} x {width} pixels, but what it is"
            f" to relate takes {data.extent.height} x {data.extent.width}: no unit sees all of it,"
            " and what no unit sees together the network can only add up; use more layers or"
            " larger strides",
            file=sys.stderr,
        )


class NetworkClassifier(NetworkLearner):
    """Trains a network on the binary cross entropy.

    Parameters
    ----------
    cell : Cell
        What is trained.
    parts : dict of str to LabeledPart
        The images called ``"train"`` and ``"test"``.
    """

    def __init__(self, cell: Cell, parts: Mapping[str, LabeledPart]) -> None:
        super().__init__([cell], parts, cell.learner.batch_size, cell.seed)
        # Convolutions and batch normalization are faster so; the images come alike.
        network = cell.learner.module(cell)
        self.network = network.to(memory_format=torch.channels_last)  # pyright: ignore
        self.perfect_epochs: Tensor = nn.Buffer(torch.tensor(0))  # in a row

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer that the configuration names."""
        return self.cell.optimizer(self.network.parameters())

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; every few steps, see `every`, with the penalty."""
        images, labels = batch
        if self.cell.learner.mirror:
            chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(chosen, images.flip(-1), images)
        outputs, penalty = self.evaluate(images, labels, self.penalty_due(batch_idx))
        logits, labels = outputs.flatten(), labels[self.own(len(images))]
        loss = functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        right = ((logits > 0) == labels).float().mean()
        return self.penalized(loss, torch.stack([loss.detach(), right]), penalty, len(images))

    def on_train_epoch_end(self) -> None:
        """Count the epochs in which all images were classified."""
        super().on_train_epoch_end()
        loss, accuracy, _ = self.means.tolist()
        self.perfect_epochs = (self.perfect_epochs + 1) * (accuracy == 1)
        self.log_dict({"train_loss": loss, "train_accuracy": accuracy}, sync_dist=True)

    def score(self, batch: Batch, name: str) -> Tensor:
        """Return how many images are classified correctly."""
        images, labels = batch
        return ((self.network(images).flatten() > 0) == labels).sum()

    def on_validation_epoch_end(self) -> None:
        """Tell Lightning, for callbacks that monitor it."""
        super().on_validation_epoch_end()
        self.log("test_accuracy", self.accuracy("test"), sync_dist=True)

    def accuracy(self, name: str) -> float:
        """Return the share of a part's images that the network classifies rightly."""
        return int(self.total(name)) / len(self.parts[name])

    def ended(self) -> dict[int, Status]:
        """Return whether training has diverged or converged."""
        perfect = self.perfect_epochs.view(1) >= self.cell.learner.patience
        return self.run_log.ended(self.means[:1], perfect)

    def measure(self, indices: Sequence[int], statuses: Mapping[int, Status]) -> None:
        """Log a point, and the outcome at the end."""
        loss, accuracy, penalty = self.means.tolist()
        point = {"epoch": self.epochs_done, "train_loss": loss, "train_accuracy": accuracy}
        point |= {"train_penalty": penalty} if self.regularizer is not None else {}
        diverged = statuses.get(0) is Status.DIVERGED
        if not diverged:
            point |= {"test_accuracy": self.accuracy("test"), **self.measures()}
        self.run_log.add_point(0, point)
        if not statuses:
            return
        (height, width), covers = coverage(self.cell.model, self.cell.data)
        metrics: dict[str, float] = {
            **point,
            "parameters": sum(weights.numel() for weights in self.network.parameters()),
            "receptive_field_height": height,
            "receptive_field_width": width,
            "covers": float(covers),
        }
        if not diverged:
            metrics["train_accuracy"] = self.accuracy("train")
            metrics["generalization_gap"] = metrics["train_accuracy"] - metrics["test_accuracy"]
        weights = {name: w.cpu().clone() for name, w in self.network.state_dict().items()}
        self.run_log.end(0, Outcome(statuses[0], metrics, weights))

    def measures(self) -> dict[str, float]:
        """Return what is measured of the network in evaluation mode, on some images.

        ``penalty`` is the published regularizer's on test images, and ``train_margin`` the tenth
        percentile of the training images' outputs, each positive where its class is right; the
        others are described at `bench.measures.locality.locality`.
        """
        self.network.eval()
        part, probes = self.parts["test"], self.probes("test")
        patches = self.cell.learner.patches(self.cell.data)
        published = InputGradientChange(*patches, seed=self.cell.seed)
        precision, penalties = self.trainer.precision_plugin, []

        def network(images: Tensor) -> Tensor:
            return self.network(precision.convert_input(images))

        with torch.no_grad(), precision.val_step_context():
            for indices in probes.split(min(self.batch_size, SAMPLES)):
                images, labels = precision.convert_input(part[indices])
                _, penalty = published.evaluate(self.network, images, labels)
                penalties.append(penalty.detach())
            images, _ = part[probes[:: len(probes) // (2 * SAMPLES)]]
            found = locality(lambda images: network(images).flatten(), images)
            images, labels = self.parts["train"][self.probes("train")]
            margins = network(images).flatten().float() * (2 * labels - 1)
        self.network.train()
        found |= {"penalty": torch.stack(penalties).mean(), "train_margin": margins.quantile(0.1)}
        return {name: float(value) for name, value in found.items()}

    def probes(self, name: str) -> Tensor:
        """Return the indices of some images of a part, evenly spaced: classes may be in order."""
        samples = len(self.parts[name])
        count = min(PROBES, samples)
        return torch.arange(count, device=self.device) * samples // count
