"""Values and gradients of many rank-one tensors at discrete inputs, by matrix products.

The component with factors w_n takes the value prod_n w_n[x_n] at input x. In the signed-log domain
that is a sum over the inputs, and so a product with the batch's indicator matrix: all components of
all predictors that read the same batch are evaluated in one matrix product, and differentiated in
one more. `slow_cp_components` is the same function written as it reads.
"""

import math

import torch
from torch import Tensor

from bench.kernels.indicators import IndicatorBatch


def slow_cp_components(factors: Tensor, indices: Tensor) -> Tensor:
    """Evaluate rank-one tensors entry by entry: the obvious version, for tests and comparisons.

    Parameters
    ----------
    factors : Tensor
        Shape (components, mode_dim, order).
    indices : Tensor
        Shape (batch, order), int64.

    Returns
    -------
    Tensor
        Shape (components, batch).
    """
    modes = torch.arange(factors.shape[2], device=indices.device)
    return factors[:, indices, modes].prod(2)


def cp_components(factors: Tensor, inputs: IndicatorBatch) -> tuple[Tensor, Tensor]:
    """Evaluate rank-one tensors at a batch of discrete inputs [TF, equation 3].

    Exact up to rounding for factors of any sign, zero included. First derivatives only: asking for
    a second one raises an error that says so.

    Parameters
    ----------
    factors : Tensor
        Shape (components, mode_dim, order), float32 or float64.
    inputs : IndicatorBatch
        A batch of `order` inputs with `mode_dim` levels.

    Returns
    -------
    values : Tensor
        Shape (components, batch).
    underflows : Tensor
        Shape (components,), int64: at how many samples the value is nonzero but below the smallest
        normal number, so that its gradient loses digits or vanishes. Not differentiable.
    """
    return _CPComponents.apply(factors, inputs)  # pyright: ignore[reportReturnType]


class _CPComponents(torch.autograd.Function):
    @staticmethod
    def forward(ctx, factors: Tensor, inputs: IndicatorBatch) -> tuple[Tensor, Tensor]:  # noqa: ANN001
        zero = factors == 0 if not factors.all() else None
        magnitudes = factors.abs() if zero is None else factors.abs().masked_fill_(zero, 1)
        values = inputs.select_sum(magnitudes.log_())
        underflows = _count_below(values, math.log(torch.finfo(values.dtype).tiny))
        values.exp_()
        negative = factors < 0
        if negative.any():
            values.mul_(1 - 2 * (inputs.select_count(negative) & 1))
        ctx.inputs = inputs
        if zero is None:
            ctx.save_for_backward(factors, values)
        else:
            # A component with one zero factor still has a gradient: that of the zero factor.
            zeros = inputs.select_count(zero)
            others = values * (zeros == 1)
            values.mul_(zeros == 0)
            ctx.save_for_backward(factors, values, zero, others)
        ctx.mark_non_differentiable(underflows)
        return values, underflows

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        if torch.is_grad_enabled():  # that is, under create_graph=True
            raise RuntimeError("cp_components has no second derivative; use slow_cp_components")
        factors, values, *zero_and_others = ctx.saved_tensors
        if not zero_and_others:
            return ctx.inputs.level_sums(gradient * values).div_(factors), None
        zero, others = zero_and_others
        sums = ctx.inputs.level_sums(gradient * values)
        sums.div_(factors.masked_fill(zero, 1))
        return torch.where(zero, ctx.inputs.level_sums(gradient * others), sums), None


def _count_below(values: Tensor, threshold: float) -> Tensor:
    """Count the entries of each row below `threshold`; the common case, none, costs one pass."""
    if values.numel() == 0 or values.amin() >= threshold:
        return values.new_zeros(len(values), dtype=torch.int64)
    return (values < threshold).sum(1)
