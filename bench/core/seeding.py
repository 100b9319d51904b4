"""Random draws that depend on a seed and on their own name, and on nothing else."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, *name: object) -> int:
    """Return a 63-bit seed for the draw called `name`.

    Adding, removing or reordering other draws never changes this one.

    Parameters
    ----------
    seed : int
        The experiment's seed; 0 is a seed like any other.
    *name : object
        The parts of the draw's name, such as ``"random_images", "train"``.
    """
    text = "/".join([str(int(seed)), *map(str, name)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *name: object) -> torch.Generator:
    """Return a CPU generator for the draw called `name` under `seed`.

    Draws are made on the CPU on every machine, so that an accelerator does not change them.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *name))


def batches(samples: int, size: int, seed: int | None, epoch: int) -> tuple[Tensor, ...]:
    """Return the index tensors, int64, of an epoch's batches of `size`; the last may be smaller.

    Their order depends on `seed` and the epoch alone; None leaves the samples in their own order.
    """
    if seed is None:
        return torch.arange(samples).split(size)
    return torch.randperm(samples, generator=generator(seed, "batch order", epoch)).split(size)


def standard_normal(shape: tuple[int, ...], seed: int, *name: object) -> Tensor:
    """Return normal numbers of mean 0 and variance 1, float64, for the draw called `name`.

    They are NumPy's, which unlike PyTorch's do not depend on the processor's instruction set. Where
    tensors have shapes alone, on PyTorch's device ``meta``, none are drawn.
    """
    if torch.get_default_device().type == "meta":
        return torch.empty(shape, dtype=torch.float64)
    rng = np.random.Generator(np.random.Philox(derive_seed(seed, *name)))
    return torch.from_numpy(rng.standard_normal(shape))
