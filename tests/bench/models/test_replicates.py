import torch
from torch import nn

from bench.models.replicates import stack_replicates


class Affine(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weights = nn.ParameterList([torch.full((2,), value)])
        self.inner = nn.Module()
        self.inner.register_buffer("shift", torch.full((2,), 10 * value))

    def forward(self, inputs):
        return inputs * self.weights[0] + self.inner.shift


def test_parameters_and_buffers_of_nested_modules_are_stacked_and_independent():
    solos = [Affine(value) for value in (1.0, 2.0, 3.0)]
    stacked = stack_replicates(solos)
    inputs = torch.tensor([1.0, -1.0])
    outputs = stacked(inputs)
    for output, solo in zip(outputs, solos, strict=True):
        torch.testing.assert_close(output, solo(inputs))
    assert [tuple(p.shape) for p in stacked.parameters()] == [(3, 2)]
    with torch.no_grad():
        stacked.weights[0].zero_()
    assert solos[0].weights[0].tolist() == [1.0, 1.0]
