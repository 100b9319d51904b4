import copy

import pytest
import torch

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.optim import GroupRMSprop


def normal(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed, "test"), dtype=torch.float64)


def quartic(parameters):
    """A loss that couples two parameters, one value for each replicate."""
    matrix, vector = parameters
    return ((matrix @ vector.unsqueeze(-1)).square().sum((-2, -1)) - 1).square()


def train(parameters, steps, optimizer):
    for _ in range(steps):
        optimizer.zero_grad()
        quartic(parameters).sum().backward()
        optimizer.step()


def test_follows_the_published_recursion_over_all_parameters_together():
    parameters = [normal(3, 2).requires_grad_(), normal(2, seed=1).requires_grad_()]
    values = [parameter.detach().clone() for parameter in parameters]
    optimizer = GroupRMSprop(parameters, lr=3e-2)
    mean = 0.0
    for step in range(1, 51):
        copies = [value.clone().requires_grad_() for value in values]
        gradients = torch.autograd.grad(quartic(copies), copies)
        mean = 0.99 * mean + 0.01 * sum(float((g * g).sum()) for g in gradients)
        size = 3e-2 / ((mean / (1 - 0.99**step)) ** 0.5 + 1e-6)
        values = [v - size * g for v, g in zip(values, gradients, strict=True)]
        train(parameters, 1, optimizer)
        assert optimizer.step_size.item() == pytest.approx(size, rel=1e-9)
    for parameter, value in zip(parameters, values, strict=True):
        torch.testing.assert_close(parameter.detach(), value, rtol=1e-12, atol=1e-12)


def test_stacked_replicates_move_as_they_would_alone():
    scales = torch.tensor([1.0, 1e-2, 30.0], dtype=torch.float64)
    starts = [normal(3, 3, 2) * scales.view(3, 1, 1), normal(3, 2, seed=1)]
    stacked = [start.clone().requires_grad_() for start in starts]
    together = GroupRMSprop(stacked, replicated=True)
    train(stacked, 30, together)
    for replicate in range(3):
        solo = [start[replicate].clone().requires_grad_() for start in starts]
        alone = GroupRMSprop(solo)
        train(solo, 30, alone)
        for one, all_of_them in zip(solo, stacked, strict=True):
            torch.testing.assert_close(all_of_them[replicate], one, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(together.step_size[replicate], alone.step_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_restored_state_continues_the_same_run(dtype):
    straight = [normal(3, 3, 2).to(dtype).requires_grad_(), normal(3, 2).to(dtype).requires_grad_()]
    optimizer = GroupRMSprop(straight, replicated=True)
    train(straight, 10, optimizer)
    resumed = [parameter.detach().clone().requires_grad_() for parameter in straight]
    restored = GroupRMSprop(resumed, lr=1.0)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(straight, 10, optimizer)
    train(resumed, 10, restored)
    for one, other in zip(straight, resumed, strict=True):
        assert torch.equal(one, other)


def test_the_step_is_bounded_where_the_gradient_vanishes():
    parameter = torch.zeros(2, requires_grad=True)
    optimizer = GroupRMSprop([parameter], lr=1e-2)
    parameter.grad = torch.full((2,), 1e-12)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.full((2,), -1e-8))


def test_a_parameter_without_gradient_stays():
    parameters = [torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)]
    optimizer = GroupRMSprop(parameters)
    parameters[1].grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(parameters[0].detach(), torch.ones(2))
    assert not torch.equal(parameters[1].detach(), torch.ones(2))


def test_a_closure_is_evaluated_and_its_loss_returned():
    parameter = torch.ones((), requires_grad=True)
    optimizer = GroupRMSprop([parameter])

    def closure():
        loss = parameter.square()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 1.0


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"decay": 1.0}, {"eps": 0.0}])
def test_bad_settings_are_named(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        GroupRMSprop([torch.ones(1, requires_grad=True)], **bad)
