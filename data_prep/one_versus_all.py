"""The one-versus-all problems of a stack of predictors that read the same images."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bench.core.cell import Cell
from bench.core.settings import identity
from data_prep.controls import control
from data_prep.images import Split

EVERYTHING = slice(None)
POSITIVE_TARGET = 2.0  # the target of the class, 0 being that of all others [TF, appendix]


def check_problems(cells: Sequence[Cell]) -> None:
    """Raise `UserError` if a variant does not exist or a file is missing or damaged."""
    for variant in {cell.variant for cell in cells}:
        control(variant)
    for data, root in {cell.data.name: (cell.data, cell.execution.root) for cell in cells}.values():
        data.files(root)


def images_key(cell: Cell, *shared: Any) -> str:
    """Return a key of cells that read the same images in the same batches.

    They also agree in what else is given.
    """
    data = identity(cell.data)
    for name in ("target_class", "fraction"):
        data.pop(name, None)
    own_images = control(cell.variant).CHANGES_IMAGES
    sample = (cell.variant, cell.seed, cell.data.fraction) if own_images else ()
    return repr(((*data.items(), *sample), shared))


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


def read_parts(cells: Sequence[Cell], device: Any = "cpu") -> dict[str, Part]:
    """Read the training and the test samples of cells with equal `images_key`."""
    data, root = cells[0].data, cells[0].execution.root
    return {name: _part(cells, data.split(root, name)).to(device) for name in ("train", "test")}


def _part(cells: Sequence[Cell], original: Split) -> Part:
    keys = [(cell.variant, cell.seed, cell.data.fraction) for cell in cells]
    variants: dict[tuple[object, ...], Split] = {}
    for key, cell in zip(keys, cells, strict=True):
        if key not in variants:
            variants[key] = cell.data.randomized(original, cell.variant, cell.seed)
    positions = {key: position for position, key in enumerate(variants)}
    return Part(
        next(iter(variants.values())).inputs,
        torch.stack([split.labels for split in variants.values()]).to(torch.uint8),
        torch.tensor([positions[key] for key in keys]),
        torch.tensor([[cell.data.target_class] for cell in cells], dtype=torch.uint8),
    )
