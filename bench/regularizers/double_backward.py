"""Convolutions and batch normalization whose input gradients are cheap to differentiate again.

PyTorch's second derivative of a convolution finds the weights' part by a convolution whose kernel
is a whole feature map, several times slower than an ordinary weight gradient, and its second
derivative of batch normalization takes some twenty passes over the data. Here the first is an
ordinary weight gradient and the second three passes. And a first convolution, costly for its size,
can be differentiated with respect to a patch of the images alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from data_prep.patches import Patch

aten = torch.ops.aten


class InputGradients(TorchFunctionMode):
    """A mode in which networks build graphs made for penalties on their input gradients.

    A graph built in it has two uses: ``torch.autograd.grad(..., create_graph=True)`` with respect
    to the network's inputs, not its parameters, and then a backward pass to the parameters, not
    the inputs. The values are those of the ordinary graph up to rounding. Operations
    other than 2-d convolution and batch normalization in training, and all under autocast, stay
    as they are.

    Parameters
    ----------
    patch : Patch, optional
        The pixels whose gradients are wanted; those of other pixels may be incomplete.
    """

    def __init__(self, patch: Patch | None = None) -> None:
        super().__init__()
        self.patch = patch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the two operations by their twins."""
        kwargs = kwargs or {}
        # With the arguments that `nn.Conv2d` and `nn.BatchNorm2d` pass
        if func is torch.conv2d and len(args) == 7:
            return _conv2d(self.patch, *args)
        known = func is functional.batch_norm and "eps" in kwargs
        return (_batch_norm if known else func)(*args, **kwargs)


def _conv2d(
    patch: Patch | None, inputs: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> Tensor:
    if not all(isinstance(each, tuple) for each in rest[:-1]) or _autocast(inputs):
        return torch.conv2d(inputs, weight, bias, *rest)
    *sizes, groups = rest  # stride, padding and dilation
    options = *sizes, False, (0, 0), groups
    return _Convolution.apply(inputs, weight, bias, options, patch)  # pyright: ignore


def _batch_norm(
    inputs: Tensor, *running: Tensor | None, weight: Tensor | None = None, **options: Any
) -> Tensor:
    if not options["training"] or weight is None or _autocast(inputs):
        return functional.batch_norm(inputs, *running, weight=weight, **options)
    rest = options["bias"], running, options["momentum"], options["eps"]
    return _BatchNorm.apply(inputs, weight, *rest)  # pyright: ignore


def _autocast(inputs: Tensor) -> bool:
    return torch.is_autocast_enabled(inputs.device.type)


class _Convolution(Function):
    """A convolution; `options` are those of ``aten::convolution`` from the stride on."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, weight, bias, options, patch = arguments
        ctx.save_for_backward(inputs, weight)
        # Images: what the penalty is differentiated for, and the training step is not.
        ctx.of_images = inputs.is_leaf and not isinstance(inputs, nn.Parameter)
        ctx.options, ctx.patch = options, patch if ctx.of_images else None
        return aten.convolution(inputs, weight, bias, *options)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        inputs, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            tensors: Any = gradient, inputs, weight, ctx.options
            if ctx.patch is not None and ctx.options[-1] == 1:  # one group
                return _patch_gradient(ctx.patch, *tensors), None, None, None, None
            return _ConvolutionBackward.apply(*tensors), None, None, None, None
        needed = ctx.needs_input_grad
        mask = [needed[0] and not ctx.of_images, needed[1], needed[2]]
        gradients = aten.convolution_backward(
            gradient, inputs, weight, [len(weight)], *ctx.options, mask
        )
        return *gradients, None, None


def _patch_gradient(
    patch: Patch, gradient: Tensor, inputs: Tensor, weight: Tensor, options: tuple[Any, ...]
) -> Tensor:
    """Return an input gradient that is complete in a patch only, from the outputs that see it."""
    strides, paddings, dilations, *_ = options
    sides, sizes = (patch.rows, patch.columns), (weight.shape[2:], gradient.shape[2:])
    seen = [
        _outputs_that_see(side, *setting)
        for side, *setting in zip(sides, *sizes, strides, paddings, dilations, strict=True)
    ]
    (rows, top, height), (columns, left, width) = seen
    # In the order of memory, in which autograd puts a slice's gradient among zeros.
    last = not gradient.is_contiguous()
    part = gradient.permute(0, 2, 3, 1)[:, rows, columns].permute(0, 3, 1, 2)
    part = (part if last else gradient[..., rows, columns]).flatten(2)
    unfolded = weight.flatten(1).T @ part
    found = functional.fold(unfolded, (height, width), sizes[0], dilations, stride=strides)
    below, right = inputs.shape[2] - top - height, inputs.shape[3] - left - width
    return functional.pad(found, (left, right, top, below))


def _outputs_that_see(
    side: slice, kernel: int, outputs: int, stride: int, padding: int, dilation: int
) -> tuple[slice, int, int]:
    """Return which outputs of a convolution see the inputs of a slice, along one axis.

    Also return the index of the first input that those outputs see, and how many inputs they see.
    """
    reach = dilation * (kernel - 1)
    first = min(max(0, -(-(side.start + padding - reach) // stride)), outputs - 1)
    last = max(first, min(outputs - 1, (side.stop - 1 + padding) // stride))
    return slice(first, last + 1), first * stride - padding, (last - first) * stride + reach + 1


class _ConvolutionBackward(Function):
    """The input gradient of a convolution; of the inputs only the shape matters."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        gradient, inputs, weight, options = arguments
        ctx.save_for_backward(gradient, weight)
        ctx.options = options
        mask = [True, False, False]
        return aten.convolution_backward(gradient, inputs, weight, None, *options, mask)[0]

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        gradient, weight = ctx.saved_tensors
        for_gradient = aten.convolution(change, weight, None, *ctx.options)
        _, for_weight, _ = aten.convolution_backward(
            gradient, change, weight, None, *ctx.options, [False, True, False]
        )
        return for_gradient, None, for_weight, None


class _BatchNorm(Function):
    """Batch normalization by the batch's own statistics."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        inputs, weight, bias, running, momentum, eps = arguments
        outputs, mean, inverse_std = aten.native_batch_norm(
            inputs, weight, bias, *running, True, momentum, eps
        )
        ctx.save_for_backward(inputs, weight, mean, inverse_std)
        ctx.eps = eps
        return outputs

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        if torch.is_grad_enabled():
            change: Any = _BatchNormBackward.apply(gradient, ctx.eps, *ctx.saved_tensors)
            return change, None, None, None, None, None
        return *_normalize_backward(gradient, ctx.eps, *ctx.saved_tensors), None, None, None


class _BatchNormBackward(Function):
    """The input gradient of batch normalization; `saved` is what the forward pass saved."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, eps: float, *saved: Tensor) -> Tensor:
        result, products, sums = _normalize_backward(gradient, eps, *saved)
        ctx.save_for_backward(gradient, *saved, products, sums)
        ctx.eps = eps
        return result

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        gradient, *saved, products, sums = ctx.saved_tensors
        inputs, weight, mean, inverse_std = saved
        for_gradient, change_products, change_sums = _normalize_backward(change, ctx.eps, *saved)
        count = inputs.numel() // len(weight)
        # Per channel, with x the normalized inputs: a = mean(change x), b = mean(gradient x).
        a, b = change_products / count, products / count
        change_mean, gradient_mean = change_sums / count, sums / count
        # The sum of change (gradient - gradient_mean), in one pass.
        ones = torch.ones_like(weight)
        _, sum_of_products, _ = _normalize_backward(
            change, ctx.eps, gradient, ones, gradient_mean, ones, wanted=[False, True, True]
        )
        covariance = sum_of_products / count - a * b
        for_weight = count * inverse_std * covariance
        scale = weight * inverse_std.square()
        slope = scale * inverse_std * (2 * a * b - covariance)
        offset = scale * (a * gradient_mean + b * change_mean) - slope * mean
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        for_inputs = torch.addcmul(offset.view(shape), inputs, slope.view(shape))
        for_inputs.addcmul_(gradient, (-scale * a).view(shape))
        for_inputs.addcmul_(change, (-scale * b).view(shape))
        return for_gradient, None, for_inputs, for_weight, None, None


def _normalize_backward(
    gradient: Tensor, eps: float, *saved: Tensor, wanted: Sequence[bool] = (True, True, True)
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to inputs, weight and bias, as far as they are wanted."""
    inputs, weight, *statistics = saved
    return aten.native_batch_norm_backward(
        gradient, inputs, weight, None, None, *statistics, True, eps, [*wanted]
    )
