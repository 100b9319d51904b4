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
from bench.kernels.tiles import LEAST_FACTOR


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

    Exact up to rounding for factors of any sign; a factor is taken as at least 2**-60 in magnitude,
    as in `bench.kernels.tiles`. First derivatives only: asking for a second one raises an error
    that says so.

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
        Shape (components,), int64: at how many samples the value is below the smallest
        normal number, so that its gradient loses digits or vanishes. Not differentiable.
    """
    return _CPComponents.apply(factors, inputs)  # pyright: ignore[reportReturnType]


class _CPComponents(torch.autograd.Function):
    @staticmethod
    def forward(ctx, factors: Tensor, inputs: IndicatorBatch) -> tuple[Tensor, Tensor]:  # noqa: ANN001
        # A factor near 0 is divided by, and taken as in `bench.kernels.tiles`.
        magnitudes, negative = factors.abs().clamp_(min=float(LEAST_FACTOR)), factors < 0
        values = inputs.select_sum(magnitudes.log())
        underflows = (values < math.log(torch.finfo(values.dtype).tiny)).sum(1)
        values.exp_()
        if negative.any():
            # Integers of this size are exact in float32, whatever the order of the sum.
            values.mul_(1 - 2 * (inputs.select_sum(negative.float()).int() & 1))
        ctx.inputs = inputs
        ctx.save_for_backward(torch.where(negative, -magnitudes, magnitudes), values)
        ctx.mark_non_differentiable(underflows)
        return values, underflows

    @staticmethod
    def backward(ctx, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        if torch.is_grad_enabled():  # that is, under create_graph=True
            raise RuntimeError("cp_components has no second derivative; use slow_cp_components")
        factors, values = ctx.saved_tensors
        return ctx.inputs.level_sums(gradient * values).div_(factors), None
