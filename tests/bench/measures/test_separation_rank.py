import pytest
import torch

from bench.core.errors import UserError
from bench.measures.locality import _sampled_matrix, estimate_separation_rank
from bench.models.arithmetic_circuit import CircuitConfig

LEFT = torch.zeros(6, 6, dtype=torch.bool)
LEFT[:, :3] = True


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def sum_of_products(count, outputs=1):
    """A network of separation rank `count` between left and right."""
    left, right = torch.randn(2, 18, count * outputs, generator=draw(), dtype=torch.float64)

    def network(images):
        flat = images.flatten(0, -3)
        near, far = flat[:, :, :3].flatten(1) @ left, flat[:, :, 3:].flatten(1) @ right
        return (near.tanh() * far.tanh()).view(len(images), outputs, count).sum(-1)

    return network


def images(count):
    return torch.randn(count, 6, 6, generator=draw(1), dtype=torch.float64)


def test_the_rank_of_a_circuit_is_at_most_its_width():
    circuit = CircuitConfig(width=2, arity=2, tree="adjacent").build((2, 4), 2, 1, 0).double()
    tensor = circuit.factorization().full_tensor().detach()
    assert torch.linalg.matrix_rank(tensor.reshape(16, 16)) == 2
    assert torch.linalg.matrix_rank(tensor.movedim((0, 2, 4, 6), (0, 1, 2, 3)).reshape(16, 16)) > 2


@pytest.mark.parametrize("count", [1, 2, 5])
def test_sampled_outputs_find_the_rank_of_a_sum_of_products(count):
    network, some, columns = sum_of_products(count), images(40), images(80)[40:]
    matrix = _sampled_matrix(network, some[:20], columns[:20], LEFT, batch_size=100)
    assert torch.linalg.matrix_rank(matrix, rtol=1e-4) == count
    effective, _ = estimate_separation_rank(network, images(80), LEFT, samples=20)
    assert 1 - 1e-6 <= effective <= count + 1e-6


def test_a_separable_network_has_effective_rank_one_without_error():
    effective, error = estimate_separation_rank(sum_of_products(1), images(60), LEFT, samples=10)
    assert effective.item() == pytest.approx(1, abs=1e-9)
    assert error.item() == pytest.approx(0, abs=1e-9)


def test_several_outputs_are_estimated_one_by_one():
    network = sum_of_products(2, outputs=3)
    effective, error = estimate_separation_rank(network, images(60), LEFT, samples=12)
    for output in range(3):
        alone = estimate_separation_rank(
            lambda x, output=output: network(x)[:, output], images(60), LEFT, samples=12
        )
        torch.testing.assert_close((effective[output], error[output]), alone)


def test_the_batch_size_does_not_matter():
    results = [
        estimate_separation_rank(sum_of_products(3), images(60), LEFT, samples=8, batch_size=size)
        for size in (5, 1000)
    ]
    torch.testing.assert_close(*results)


def test_the_error_is_the_spread_over_samples():
    network, many = sum_of_products(6), images(3000)
    estimates = [
        estimate_separation_rank(network, many, LEFT, samples=24, seed=seed) for seed in range(40)
    ]
    effective, errors = map(torch.stack, zip(*estimates, strict=True))
    assert 0.5 < errors.mean() / effective.std() < 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 2}, "samples=2"),
        ({"samples": 31}, "60 images"),
        ({"samples": 5, "mask": torch.ones(6, 6, dtype=torch.bool)}, "one side"),
        ({"samples": 5, "mask": torch.zeros(6, 6, dtype=torch.bool)}, "one side"),
    ],
)
def test_what_cannot_be_estimated_is_refused(arguments, message):
    arguments = {"mask": LEFT} | arguments
    with pytest.raises(UserError, match=message):
        estimate_separation_rank(sum_of_products(1), images(60), **arguments)


def test_an_output_that_overflows_has_no_rank():
    images = torch.rand(20, 4, 4)

    def network(batch):
        return torch.stack([batch.sum((1, 2)), batch.sum((1, 2)) / 0.0], 1)

    effective, _ = estimate_separation_rank(network, images, torch.arange(4) < 2, samples=5)
    assert effective[0] >= 1
    assert effective[1].isnan()
