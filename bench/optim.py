"""Gradient descent whose one step size follows the norm of the whole gradient."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from bench.core.errors import require


class GroupRMSprop(Optimizer):
    """RMSprop with one running mean for all parameters of a group together.

    The mean v of the squared norm of the group's gradient g follows
    ``v <- decay v + (1 - decay) ||g||^2``; every parameter moves by
    ``-lr g / (sqrt(v / (1 - decay^t)) + eps)``. Directions are those of gradient descent, so the
    laws of gradient flow hold in the time that the sum of the step sizes is [TF and HTF,
    experiments].

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups, as for any optimizer of torch.
    lr : float
        Above 0.
    decay : float
        In [0, 1): how much of the running mean each step keeps.
    eps : float
        Above 0; bounds the step size by ``lr / eps`` where the gradient vanishes.
    replicated : bool
        Whether the first dimension of every parameter counts independent replicates. Each then has
        its own v, and moves exactly as it would alone.

    Attributes
    ----------
    step_size : Tensor
        The last group's last step size, shape (replicates,) or ().
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        decay: float = 0.99,
        eps: float = 1e-6,
        replicated: bool = False,
    ) -> None:
        require(lr > 0, f"lr={lr}", "a number above 0")
        require(0 <= decay < 1, f"decay={decay}", "a number from 0 to below 1")
        require(eps > 0, f"eps={eps}", "a number above 0")
        super().__init__(params, {"lr": lr, "decay": decay, "eps": eps, "replicated": replicated})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        """Move every parameter that has a gradient; return the closure's loss, if there is one."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            moving = [(p, p.grad) for p in group["params"] if p.grad is not None]
            if moving:
                self._move(moving, group)
        return loss

    def _move(self, moving: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> None:
        squared_norm: Any = sum(_squared_norm(each, group["replicated"]) for _, each in moving)
        state = self.state[group["params"][0]]  # there it is checkpointed
        if not state:
            state.update(step=0, squared_norm=torch.zeros_like(squared_norm))
        state["step"] += 1
        state["squared_norm"].lerp_(squared_norm, 1 - group["decay"])
        correction = 1 - group["decay"] ** state["step"]
        root = (state["squared_norm"] / correction).sqrt_()
        self.step_size = size = root.add_(group["eps"]).reciprocal_().mul_(group["lr"])
        for parameter, gradient in moving:
            sizes = size.view(size.shape + (1,) * (parameter.ndim - size.ndim))
            parameter.addcmul_(gradient, sizes, value=-1)


def _squared_norm(gradient: Tensor, replicated: bool) -> Tensor:
    dims = tuple(range(1, gradient.ndim)) if replicated else None
    return torch.linalg.vector_norm(gradient, dim=dims).square_()
