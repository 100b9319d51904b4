"""Images of uniformly random pixels with the original labels, so the class counts are kept."""

import torch
from torch import Tensor

from bench.seeding import generator
from data_prep.images import Split

CHANGES_IMAGES = True


def randomize(split: Split, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Replace each pixel, with probability `fraction`, by one uniform over the levels."""
    draw = generator(seed, "pixels", split.name)
    shape = split.inputs.shape
    pixels = torch.randint(split.levels, shape, generator=draw, dtype=torch.uint8)
    if fraction < 1:
        draw = generator(seed, "replaced pixels", split.name)
        replaced = torch.rand(shape, generator=draw) < fraction
        pixels = torch.where(replaced, pixels, split.inputs)
    return pixels, split.labels
