"""The one-versus-all problems of a stack of predictors that read the same images."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from bench.kernels.indicators import indicator_matrix
from bench.seeding import generator
from data_prep.controls import control
from data_prep.images import ImageData, Split
from data_prep.intervals import Intervals

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
        The seed of the control's draws.
    """

    data: ImageData
    variant: str
    seed: int

    def images_key(self) -> tuple[object, ...]:
        """Return what two problems must share to read the same images in the same batches."""
        own_images = control(self.variant).CHANGES_IMAGES
        draw = (self.variant, self.seed, self.data.fraction) if own_images else ()
        return (self.data.name, self.data.levels, self.data.batch_size, self.data.order_seed, *draw)


@dataclass(frozen=True)
class Part:
    """The training or test samples of a stack.

    Parameters
    ----------
    inputs : Tensor
        What the predictors read, one row a sample: see `OneVersusAllStack.encode`.
    labels : Tensor
        Shape (draws, samples), uint8: every different labelling that occurs in the stack.
    draws : Tensor
        Shape (problems,), int64: the labelling of each problem.
    classes : Tensor
        Shape (problems, 1), uint8: the target class of each problem.
    """

    inputs: Tensor
    labels: Tensor
    draws: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

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
        return self.labels[:, samples][self.draws[problems]]


class OneVersusAllStack(Intervals):
    """Images shared by a stack of one-versus-all problems, and the targets of each.

    Everything is in memory as tensors.

    Parameters
    ----------
    problems : sequence of Problem
        Problems with equal `images_key`.
    root : str or None
        The data folder.
    """

    def __init__(self, problems: Sequence[Problem], root: str | None) -> None:
        super().__init__()
        self.problems = list(problems)
        self.data = problems[0].data
        self.root = root

    @cached_property
    def parts(self) -> dict[str, Part]:
        """The training and the test samples."""
        return {name: self._part(self.data.split(self.root, name)) for name in ("train", "test")}

    def _part(self, original: Split) -> Part:
        draws: dict[tuple[object, ...], Split] = {}
        keys = [(p.variant, p.seed, p.data.fraction) for p in self.problems]
        for key, problem in zip(keys, self.problems, strict=True):
            if key not in draws:
                draws[key] = problem.data.randomized(original, problem.variant, problem.seed)
        places = {key: place for place, key in enumerate(draws)}
        classes = [problem.data.target_class for problem in self.problems]
        return Part(
            self.encode(next(iter(draws.values()))),
            torch.stack([split.labels for split in draws.values()]).to(torch.uint8),
            torch.tensor([places[key] for key in keys]),
            torch.tensor(classes, dtype=torch.uint8)[:, None],
        )

    def encode(self, split: Split) -> Tensor:
        """Return the 0/1 matrix that CP predictors read; see `indicator_matrix`."""
        return indicator_matrix(split.inputs, self.data.levels)

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """Return the index tensors of an epoch's batches, int64.

        Their order depends on `data.order_seed` and the epoch alone.
        """
        samples = self.data.COUNTS["train"]
        draw = generator(self.data.order_seed, "batch order", epoch)
        return torch.randperm(samples, generator=draw).split(self.data.batch_size)


class PixelStack(OneVersusAllStack):
    """The same, for predictors that read the pixels themselves."""

    def encode(self, split: Split) -> Tensor:
        """Return the quantized pixels, shape (samples, pixels), uint8."""
        return split.inputs
