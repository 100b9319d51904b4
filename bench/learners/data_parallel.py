"""Batch normalization over the samples of all devices."""

from typing import Any

import torch
from pytorch_lightning.plugins.layer_sync import LayerSync
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm


class SharedStatistics(LayerSync):
    """Has Lightning normalize by the statistics of a whole batch where devices share it.

    `torch.nn.SyncBatchNorm` runs on no CPU and cannot be differentiated twice, as a regularizer
    of input gradients needs it.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace each batch normalization; parameters and buffers stay the same objects."""
        for module in [*model.modules()]:
            for name, child in module.named_children():
                if isinstance(child, BatchNorm):
                    setattr(module, name, SharedBatchNorm(child))
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Leave the model, whose numbers have been recorded, as it is."""
        return model


class SharedBatchNorm(BatchNorm):
    """Batch normalization with mean and variance over the samples of all devices.

    Parameters
    ----------
    single : BatchNorm
        The one that it replaces, whose parameters and buffers it takes.
    """

    def __init__(self, single: BatchNorm) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(single.__dict__)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize; in training by the batch of all devices."""
        if not self.training:
            kept = self.running_mean, self.running_var, self.weight, self.bias
            return functional.batch_norm(input, *kept, self.running_mean is None, 0.0, self.eps)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        dims = [0, *range(2, values.ndim)]
        count = _Sum.apply(values.new_tensor(values.numel() / values.shape[1]))
        mean = _Sum.apply(values.sum(dims, keepdim=True)) / count
        centered = values - mean
        variance = _Sum.apply(centered.square().sum(dims, keepdim=True)) / count
        self._keep(mean.detach().flatten(), variance.detach().flatten(), count)
        outputs = centered * (variance + self.eps).rsqrt()
        if self.affine:
            shape = mean.shape
            outputs = outputs * self.weight.view(shape) + self.bias.view(shape)
        return outputs.to(input.dtype)

    @torch.no_grad()
    def _keep(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics as PyTorch does."""
        if self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        unbiased = variance * (count / (count - 1))
        for running, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            running.lerp_(new.to(running.dtype), momentum)


class _Sum(Function):
    """The sum over the devices, which can be differentiated any number of times."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        (values,) = arguments
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore
        return _Sum.apply(gradient)
