"""Original images whose labels are permuted, in train and test apart."""

import torch
from torch import Tensor

from bench.core.seeding import generator
from data_prep.images import Split

CHANGES_IMAGES = False


def randomize(split: Split, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Permute the labels of a random `fraction` of the samples among themselves."""
    samples = len(split.labels)
    chosen = torch.randperm(samples, generator=generator(seed, "permuted samples", split.name))
    chosen = chosen[: round(fraction * samples)]
    order = torch.randperm(len(chosen), generator=generator(seed, "label order", split.name))
    labels = split.labels.clone()
    labels[chosen] = split.labels[chosen[order]]
    return split.inputs, labels
