"""Countering locality: reward a network whose response to one patch depends on another."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bench.core.errors import require
from bench.core.seeding import generator
from bench.core.settings import Count, NonNegative, Settings, settings
from bench.regularizers.double_backward import InputGradients
from data_prep.patches import HalfOf, Patch, PatchChoice, PatchSampler

# A sample whose gradient has at most this norm counts 0 and pulls at nothing. The published form
# divides by zero there and is this one everywhere else.
NO_GRADIENT = 1e-12


@settings
class InputGradientChangeConfig(Settings):
    """Settings of `configs/regularizer/`: the published form and departures from it.

    Parameters
    ----------
    coefficient : float
        The weight of the penalty in the loss; 0 leaves it out.
    every : int
        Steps from one with the penalty to the next; its weight is multiplied by as much.
    freeze_statistics, patches_per_sample, swap_differing : bool
        Departures from the published form; see `InputGradientChange`.
    random_roles : bool
        Whether each batch draws which of two fixed patches is A, as published; else it is the
        first.
    local : bool
        A placebo: A and B touch. They are the halves of one of the two fixed patches, or, where
        patches lie anywhere, B is beside A. All else, the cost included, stays as it is, so that
        only the distance between what is to be tied together is lost.
    """

    name: ClassVar[str] = "input_gradient_change"
    later: ClassVar[frozenset[str]] = frozenset({"random_roles", "local"})

    coefficient: NonNegative = 1.0
    every: Count = 1
    freeze_statistics: bool = False
    patches_per_sample: bool = False
    swap_differing: bool = False
    random_roles: bool = False
    local: bool = False

    def build(self, patches: tuple[PatchSampler, PatchSampler], seed: int) -> "InputGradientChange":
        """Return the penalty for patches A and B."""
        fixed = [patch for patch in patches if isinstance(patch, Patch)]
        if fixed and (self.local or self.random_roles):
            chosen = HalfOf(fixed) if self.local else PatchChoice(fixed)
            patches = chosen, chosen
        elif self.local:
            first, second = patches
            patches = first, replace(second, distance=0, adjacent=True)  # pyright: ignore
        forms = self.freeze_statistics, self.patches_per_sample, self.swap_differing
        return InputGradientChange(*patches, *forms, seed=seed)


@dataclass(eq=False, repr=False)
class InputGradientChange(nn.Module):
    """How little the input gradient in a patch turns when another patch is replaced [HTF, sec. 6].

    For each batch two disjoint patches A and B are sampled. With g the gradient of an output with
    respect to its sample's pixels in A, and g' the same after the sample's patch B was replaced by
    the next sample's, the penalty is the mean over the batch of ``|cos(g, g')|``: 1 for a network
    that is separable between A and B, whatever its parameters.

    Parameters
    ----------
    first_patch, second_patch : Patch or PatchSampler
        A and B: fixed patches or ways to sample them. A is sampled first.
    freeze_statistics : bool
        Keep the running statistics of batch normalization from being updated by the images with
        replaced patches. The penalty is the same. The published form updates them.
    patches_per_sample : bool
        Sample two patches for each image. The published form samples two for the batch.
    swap_differing : bool
        Take each sample's patch B from the next sample in which it differs, and leave samples
        without one out of the mean. In the published form it may be replaced by an equal one, as
        black by black: the sample then counts 1 and pulls at nothing.
    seed : int
        Seed of the patches; those of a batch depend on the number of batches before it.

    Examples
    --------
    >>> regularizer = InputGradientChange(Patch(0, 0, 8, 8), Patch(0, 24, 8, 8))
    >>> outputs, penalty = regularizer.evaluate(network, inputs, targets)
    >>> (criterion(outputs, targets) + coefficient * penalty).backward()
    """

    relates_samples: ClassVar[bool] = True  # so devices need more of a batch than their share

    first_patch: PatchSampler
    second_patch: PatchSampler
    freeze_statistics: bool = False
    patches_per_sample: bool = False
    swap_differing: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        self.batches = 0

    def get_extra_state(self) -> dict[str, int]:
        """Return what a checkpoint needs to go on with the same patches."""
        return {"batches": self.batches}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Restore the state of a checkpoint."""
        self.batches = state["batches"]

    def evaluate(
        self,
        network: nn.Module,
        inputs: Tensor,
        targets: Tensor,
        own: slice = slice(None),
    ) -> tuple[Tensor, Tensor]:
        """Return a network's outputs for a batch, and their penalty.

        Parameters
        ----------
        network : nn.Module
            Any network that can be differentiated twice.
        inputs : Tensor
            Shape (batch, channels, height, width), at least 2 samples.
        targets : Tensor
            Shape (batch,), int64: the class whose output is differentiated; not used for a single
            output.
        own : slice
            The samples to evaluate, where the others are another device's; by default all. They
            still take their patches from the next sample of the batch.

        Returns
        -------
        outputs : Tensor
            Shape (own,), (own, 1) or (own, classes).
        penalty : Tensor
            Scalar in [0, 1], differentiable with respect to the network's parameters: what the
            own samples add to the batch's mean.

        Raises
        ------
        UserError
            For a batch of one, patches outside the image or overlapping patches.
        """
        pairs = self._sample_patches(inputs)
        first, second = (
            torch.stack([_pixels(patch, inputs) for patch in patches])
            for patches in zip(*pairs, strict=True)
        )
        # Only where the first patch is the same for all samples are others' gradients left out.
        mode = InputGradients(pairs[0][0] if len(pairs) == 1 else None)
        with torch.enable_grad():
            swapped, counts = self._swap(inputs.detach(), second)
            inputs = inputs.detach()[own].requires_grad_()
            swapped = swapped[own].requires_grad_()
            first = first[own] if len(pairs) > 1 else first
            # Copies, if any, take the updates of running statistics.
            kept = {n: b.clone() for n, b in network.named_buffers() if self.freeze_statistics}
            with mode:
                outputs = network(inputs)
                swapped_outputs = functional_call(network, kept, (swapped,))
            before = _at(_gradient(outputs, inputs, targets, own), first)
            after = _at(_gradient(swapped_outputs, swapped, targets, own), first)
            turned = _alignment(before, after) * counts[own]
            return outputs, turned.sum() / counts.sum().clamp(min=1)

    def _sample_patches(self, inputs: Tensor) -> list[tuple[Patch, Patch]]:
        """Sample A and B for each image, or one A and one B for all."""
        expected = "at least 2 samples, as each takes a patch from the next"
        hint = "drop the last batch if it is that small"
        require(len(inputs) >= 2, "a batch of one sample", expected, hint)
        rng = generator(self.seed, "patches", self.batches)
        self.batches += 1
        count = len(inputs) if self.patches_per_sample else 1
        height, width = inputs.shape[-2:]
        return [self._sample_pair(height, width, rng) for _ in range(count)]

    def _sample_pair(self, height: int, width: int, rng: torch.Generator) -> tuple[Patch, Patch]:
        first = self.first_patch.sample(height, width, None, rng)
        second = self.second_patch.sample(height, width, first, rng)
        for patch in (first, second):
            inside = 0 <= patch.top < patch.bottom <= height
            inside = inside and 0 <= patch.left < patch.right <= width
            given = f"{patch} in an image of {height} x {width}"
            require(inside, given, "a patch inside the image")
        require(not first.overlaps(second), f"{first} and {second}, which overlap", "two apart")
        return first, second

    def _swap(self, inputs: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Replace each sample's pixels by another's; return also which count, shape (batch,)."""
        samples = torch.arange(len(inputs), device=inputs.device)
        counts, steps = torch.ones_like(samples, dtype=inputs.dtype), 1
        if self.swap_differing:
            own = _at(inputs, pixels)
            later = [_at(inputs.roll(-step, 0), pixels) for step in range(1, len(inputs))]
            differs = torch.stack([(other != own).flatten(1).any(1) for other in later], 1)
            counts, steps = differs.any(1).to(inputs.dtype), 1 + differs.long().argmax(1)
        others = inputs[(samples + steps) % len(inputs)]
        height, width = inputs.shape[-2:]
        mask = torch.zeros(len(pixels), height * width, dtype=torch.bool, device=inputs.device)
        mask = mask.scatter(1, pixels, True).view(-1, 1, height, width)
        # In the images' own order of memory: another one makes every layer slow.
        return torch.empty_like(inputs).copy_(torch.where(mask, others, inputs)), counts


def _alignment(before: Tensor, after: Tensor) -> Tensor:
    """Return |cos| of the angle between two gradients of each sample, shape (batch,)."""
    directions = []
    for gradient in (before.flatten(1), after.flatten(1)):
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
        present = norm > NO_GRADIENT
        # Two masks: the inner one keeps the quotient's derivative finite.
        directions.append(gradient / norm.where(present, 1.0) * present)
    return (directions[0] * directions[1]).sum(1).abs()


def _pixels(patch: Patch, inputs: Tensor) -> Tensor:
    """Return a patch's indices in flattened images, shape (pixels,), int64."""
    height, width = inputs.shape[-2:]
    indices = torch.arange(height * width, device=inputs.device).view(height, width)
    return patch.of(indices).flatten()


def _at(images: Tensor, pixels: Tensor) -> Tensor:
    """Return some pixels of each image, shape (batch, channels, pixels).

    `pixels` has shape (batch, pixels), or (1, pixels) for the same ones in all images.
    """
    index = pixels.unsqueeze(1).expand(len(images), images.shape[1], -1)
    return images.flatten(2).gather(2, index)


def _gradient(outputs: Tensor, inputs: Tensor, targets: Tensor, own: slice) -> Tensor:
    """Return each sample's gradient of its output, or of its class's output if it has several."""
    if outputs.ndim == 2 and outputs.shape[1] > 1:
        outputs = outputs.gather(1, targets[own].unsqueeze(1))
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    return gradient
