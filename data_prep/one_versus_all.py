"""The one-versus-all problems of a stack of predictors that read the same images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bench.core.cell import Cell
from bench.core.seeding import generator
from bench.core.settings import identity
from data_prep.controls import control
from data_prep.images import ImageData, Split

EVERYTHING = slice(None)
POSITIVE_TARGET = 2.0  # the target of the class, 0 being that of all others [TF, appendix]


@dataclass(frozen=True)
class Problem:
    """One predictor's task.

    Parameters
    ----------
    data : ImageData
        The data set with its quantization and target class.
    variant : str
        ``"original"`` or the name of a control.
    seed : int
        The seed of the control's random numbers.
    """

    data: ImageData
    variant: str
    seed: int

    def images_key(self) -> tuple[object, ...]:
        """Return what two problems must share to read the same images in the same batches."""
        own_images = control(self.variant).CHANGES_IMAGES
        sample = (self.variant, self.seed, self.data.fraction) if own_images else ()
        shared = identity(self.data)
        for name in ("target_class", "fraction"):
            shared.pop(name, None)
        return (*shared.items(), *sample)


def problem_of(cell: Cell) -> Problem:
    """Return the one-versus-all problem that a cell asks for."""
    return Problem(cell.data, cell.variant, cell.seed)


def check_problems(cells: Sequence[Cell]) -> None:
    """Raise `UserError` if a variant does not exist or a file is missing or damaged."""
    for variant in {cell.variant for cell in cells}:
        control(variant)
    for data, root in {cell.data.name: (cell.data, cell.execution.root) for cell in cells}.values():
        data.files(root)


def images_key(cell: Cell, *shared: Any) -> str:
    """Return a key of cells that read the same images and agree in what else is given."""
    return hashlib.sha256(repr((problem_of(cell).images_key(), shared)).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Part:
    """The training or test samples of a stack.

    Parameters
    ----------
    inputs : Tensor
        Shape (samples, pixels), uint8, values from 0 to levels - 1.
    labels : Tensor
        Shape (labelings, samples), uint8: every different labeling that occurs in the stack.
    labelings : Tensor
        Shape (problems,), int64: the labeling of each problem.
    classes : Tensor
        Shape (problems, 1), uint8: the target class of each problem.
    """

    inputs: Tensor
    labels: Tensor
    labelings: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixels, shape (batch, pixels), and labels, shape (problems, batch), of samples."""
        samples = samples.to(self.inputs.device)
        return self.inputs[samples], self.problem_labels(EVERYTHING, samples)

    def to(self, device: torch.device) -> "Part":
        """Return the same samples on a device."""
        return Part(*(getattr(self, field.name).to(device) for field in fields(self)))

    def targets(self, problems: Tensor | slice, samples: Tensor | slice = EVERYTHING) -> Tensor:
        """Return which samples belong to the problems' classes, shape (problems, samples), bool."""
        return self.problem_labels(problems, samples) == self.classes[problems]

    def problem_labels(
        self, problems: Tensor | slice, samples: Tensor | slice = EVERYTHING
    ) -> Tensor:
        """Return the samples' labels in each problem, shape (problems, samples), uint8."""
        return self.labels[:, samples][self.labelings[problems]]


class OneVersusAllStack:
    """Images shared by a stack of one-versus-all problems, and the targets of each.

    Parameters
    ----------
    problems : sequence of Problem
        Problems with equal `images_key`.
    root : str or None
        The data folder.
    """

    def __init__(self, problems: Sequence[Problem], root: str | None) -> None:
        self.problems = list(problems)
        self.data = problems[0].data
        self.root = root

    def parts(self) -> dict[str, Part]:
        """Read the training and the test samples."""
        return {name: self._part(self.data.split(self.root, name)) for name in ("train", "test")}

    def _part(self, original: Split) -> Part:
        keys = [(p.variant, p.seed, p.data.fraction) for p in self.problems]
        variants: dict[tuple[object, ...], Split] = {}
        for key, problem in zip(keys, self.problems, strict=True):
            if key not in variants:
                variants[key] = problem.data.randomized(original, problem.variant, problem.seed)
        positions = {key: position for position, key in enumerate(variants)}
        classes = [problem.data.target_class for problem in self.problems]
        return Part(
            next(iter(variants.values())).inputs,
            torch.stack([split.labels for split in variants.values()]).to(torch.uint8),
            torch.tensor([positions[key] for key in keys]),
            torch.tensor(classes, dtype=torch.uint8)[:, None],
        )

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """Return the index tensors of an epoch's batches, int64.

        Their order depends on `data.order_seed` and the epoch alone.
        """
        rng = generator(self.data.order_seed, "batch order", epoch)
        return torch.randperm(self.data.counts["train"], generator=rng).split(self.data.batch_size)
