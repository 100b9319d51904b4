"""Many replicates of one module in one: seeds and initialization scales in a batch dimension."""

import copy
from collections.abc import Sequence
from itertools import chain
from typing import TypeVar

from torch import Tensor, nn
from torch.func import stack_module_state
from torch.optim import Optimizer

M = TypeVar("M", bound=nn.Module)


def select_replicates(module: nn.Module, kept: Tensor) -> None:
    """Keep some replicates of a stacked module, in place; parameters stay the same objects.

    Parameters
    ----------
    module : nn.Module
        As `stack_replicates` returns it.
    kept : Tensor
        Shape (replicates,), bool.
    """
    for parameter in module.parameters():
        parameter.grad = None
        parameter.data = parameter.data[kept]
    for owner in module.modules():
        for name, values in owner.named_buffers(recurse=False):
            setattr(owner, name, values[kept])


def select_optimizer_state(optimizer: Optimizer, kept: Tensor) -> None:
    """Keep what an optimizer knows of some replicates, in place; see `select_replicates`."""
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape[:1] == kept.shape:
                state[name] = value[kept]


def stack_replicates(modules: Sequence[M]) -> M:
    """Return one module whose every parameter and buffer stacks those of `modules`.

    For modules whose operations carry leading dimensions through: the result then computes all
    replicates at once, each as it would be computed alone.

    Parameters
    ----------
    modules : sequence of nn.Module
        At least one; of the same class and with the same shapes.

    Returns
    -------
    nn.Module
        Of the same class; every parameter and buffer has one more dimension, the first, of size
        ``len(modules)``.
    """
    parameters, buffers = stack_module_state(list(modules))
    stacked, states = copy.deepcopy(modules[0]), parameters | buffers
    for name, values in chain(stacked.named_parameters(), stacked.named_buffers()):
        values.data = states[name].detach()
    return stacked
