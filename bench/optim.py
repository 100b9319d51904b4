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
    laws of gradient flow hold in the time that `flow_time` counts [TF and HTF, experiments].

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

    @property
    def flow_time(self) -> Tensor:
        """Sum of the first group's step sizes so far, float64: shape (replicates,) or ()."""
        return self._state_of(self.param_groups[0])["flow_time"]

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
        state = self._state_of(group)
        state["step"] += 1
        squared_norm = sum(_squared_norm(gradient, group["replicated"]) for _, gradient in moving)
        state["squared_norm"].lerp_(squared_norm, 1 - group["decay"])
        correction = 1 - group["decay"] ** state["step"]
        root = (state["squared_norm"] / correction).sqrt_()
        step_size = root.add_(group["eps"]).reciprocal_().mul_(group["lr"])
        state["flow_time"] += step_size
        for parameter, gradient in moving:
            sizes = step_size.view(step_size.shape + (1,) * (parameter.ndim - step_size.ndim))
            parameter.addcmul_(gradient, sizes, value=-1)

    def _state_of(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the group's state, kept with its first parameter so that it is checkpointed."""
        first = group["params"][0]
        state = self.state[first]
        if not state:
            shape = first.shape[:1] if group["replicated"] else ()
            state["step"] = 0
            state["squared_norm"] = first.new_zeros(shape, requires_grad=False)
            state["flow_time"] = torch.zeros(shape, dtype=torch.float64, device=first.device)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state; `flow_time` keeps its precision, which torch would cast away."""
        super().load_state_dict(state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            saved_state = state_dict["state"].get(saved["params"][0])
            if saved_state is not None:
                state = self._state_of(group)
                state["flow_time"] = saved_state["flow_time"].to(group["params"][0].device).clone()


def _squared_norm(gradient: Tensor, replicated: bool) -> Tensor:
    dims = tuple(range(1, gradient.ndim)) if replicated else None
    return torch.linalg.vector_norm(gradient, dim=dims).square_()
