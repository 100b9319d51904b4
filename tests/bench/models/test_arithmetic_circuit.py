import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bench.core.errors import UserError
from bench.models.arithmetic_circuit import CircuitConfig
from bench.models.replicates import stack_replicates

CIRCUITS = {
    "grid": {"image_shape": (4, 4), "width": 3},
    "left over": {"image_shape": (3, 3), "width": 3, "tree": "adjacent"},
    "adjacent": {"image_shape": (2, 4), "width": 3, "arity": 2, "tree": "adjacent"},
    "half": {"image_shape": (2, 3), "width": 4, "arity": 2, "tree": "half"},
    "three levels": {"image_shape": (2, 3), "width": 3, "tree": "cp", "levels": 3},
    "shared": {"image_shape": (4, 4), "width": 3, "shared": True},
}


def circuit_of(image_shape, width, levels=2, outputs=1, seed=0, **settings):
    config = CircuitConfig(width=width, **{"init_std": 0.1, **settings})
    return config.build(image_shape, levels, outputs, seed)


@pytest.fixture(params=CIRCUITS.values(), ids=CIRCUITS.keys())
def circuit(request):
    return circuit_of(**request.param, init_std=0.4).double()


def all_images(circuit):
    levels = range(circuit.levels)
    return torch.tensor(list(itertools.product(levels, repeat=circuit.tree.order)))


def plain(circuit, features):
    """Evaluate without any scaling: (order, batch, features) to (batch, outputs)."""
    values = features
    for weights, runs in zip(circuit.convolutions, circuit.tree.window_groups, strict=True):
        children = iter(values @ weights)
        windows = [run.arity for run in runs for _ in range(run.windows)]
        values = torch.stack(
            [torch.stack([next(children) for _ in range(arity)]).prod(0) for arity in windows]
        )
    return values[0] @ circuit.root_weights


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_the_network_on_all_one_hot_inputs_is_the_factorization(circuit):
    tensor = circuit.factorization().full_tensor()
    outputs = circuit(all_images(circuit)).view(tensor.shape)
    assert relative(outputs, tensor) < 1e-12


def test_each_output_is_a_factorization():
    circuit = circuit_of((2, 2), 3, outputs=3, init_std=0.4).double()
    circuit.root_weights.data.normal_(generator=torch.Generator().manual_seed(0))
    outputs = circuit(all_images(circuit))
    for output in range(3):
        tensor = circuit.factorization(output).full_tensor()
        assert relative(outputs[:, output], tensor.flatten()) < 1e-12


def test_scaled_and_plain_evaluation_agree_with_their_gradients(circuit):
    generator = torch.Generator().manual_seed(0)
    shape = (circuit.tree.order, 5, circuit.levels)
    features = torch.randn(shape, generator=generator, dtype=torch.float64)
    scaled, expected = circuit.evaluate(features), plain(circuit, features).squeeze(-1)
    assert relative(scaled, expected) < 1e-12
    parameters = list(circuit.parameters())
    gradients = torch.autograd.grad(scaled.square().sum(), parameters)
    for got, want in zip(
        gradients, torch.autograd.grad(expected.square().sum(), parameters), strict=True
    ):
        assert relative(got, want) < 1e-12


def large_circuit(scale):
    """A 784-pixel circuit whose partial products leave float32, their sum does not."""
    circuit = circuit_of((28, 28), 4, init_std=0.2, seed=3)
    with torch.no_grad():
        circuit.convolutions[0].mul_(scale)
        circuit.convolutions[1].div_(scale**4)
    return circuit


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_784_pixels_in_float32_follow_float64(scale):
    circuit = large_circuit(scale)
    images = torch.randint(2, (6, 28, 28), generator=torch.Generator().manual_seed(1))
    exact = circuit_of((28, 28), 4).double()
    exact.load_state_dict({k: v.double() for k, v in circuit.state_dict().items()})
    outputs, expected = circuit(images), exact(images)
    assert (outputs != 0).all()
    torch.testing.assert_close(outputs.double(), expected, rtol=1e-3, atol=0)
    gradients = torch.autograd.grad(outputs.log().sum(), circuit.parameters())
    for got, want in zip(
        gradients, torch.autograd.grad(expected.log().sum(), exact.parameters()), strict=True
    ):
        assert got.isfinite().all()
        assert relative(got.double(), want) < 1e-3


@given(st.lists(st.floats(-80, 80), min_size=49, max_size=49))
def test_windows_of_any_magnitudes_are_multiplied_exactly(exponents):
    circuit = circuit_of((7, 7), 1, init_std=0.0)
    exponents = torch.tensor(exponents).round()
    exponents[-1] -= exponents.sum()
    if exponents.abs().max() > 90:
        return
    with torch.no_grad():
        circuit.convolutions[0].mul_(torch.exp2(exponents).view(-1, 1, 1))
    assert circuit(torch.zeros(1, 7, 7, dtype=torch.int64)).item() == 1.0


def test_zeros_among_the_factors_have_their_gradients():
    circuit = circuit_of((2, 2), 1, init_std=0.0)
    with torch.no_grad():
        circuit.convolutions[0][1] = 0
    output = circuit(torch.zeros(1, 2, 2, dtype=torch.int64))
    assert output.item() == 0
    output.backward()
    assert circuit.convolutions[0].grad[1, 0].item() == 1


def test_outputs_that_all_underflow_are_an_error():
    circuit = circuit_of((28, 28), 4)
    with torch.no_grad():
        circuit.convolutions[0].mul_(0.5)
    with pytest.raises(FloatingPointError, match="start with larger weights"):
        circuit(torch.zeros(2, 28, 28, dtype=torch.int64))


@pytest.mark.parametrize("shared", [False, True])
def test_the_start_is_of_order_one(shared):
    circuit = circuit_of((28, 28), 16, shared=shared)
    images = torch.randint(2, (20, 28, 28), generator=torch.Generator().manual_seed(1))
    outputs = circuit(images)
    assert 0.2 < outputs.min() < outputs.max() < 5


def test_affine_features_of_real_pixels():
    circuit = circuit_of((2, 2), 3, features="affine", init_std=0.4).double()
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    pixels = images.flatten(1).t()
    features = torch.stack([torch.ones_like(pixels), pixels], -1)
    assert relative(circuit(images), plain(circuit, features).squeeze(-1)) < 1e-12


def test_replicates_are_computed_as_alone():
    alone = [circuit_of((4, 4), 3, outputs=2, seed=seed, init_std=0.3) for seed in (0, 1)]
    images = torch.randint(2, (5, 4, 4), generator=torch.Generator().manual_seed(0))
    stacked = stack_replicates(alone)(images)
    torch.testing.assert_close(stacked, torch.stack([one(images) for one in alone]))


def test_shared_weights_are_one_node_a_level():
    circuit = circuit_of((8, 8), 5, shared=True)
    assert [tuple(each.shape) for each in circuit.convolutions] == [(1, 2, 5), (1, 5, 5), (1, 5, 5)]


def test_images_of_the_wrong_kind_are_refused():
    circuit = circuit_of((4, 4), 3)
    with pytest.raises(UserError, match="25 pixels"):
        circuit(torch.zeros(2, 5, 5, dtype=torch.int64))
    with pytest.raises(UserError, match="quantize"):
        circuit(torch.zeros(2, 4, 4))


def test_images_that_no_window_divides_are_pooled_at_once():
    circuit = circuit_of((5, 5), 3)
    assert [len(level) for level in circuit.tree.nodes] == [25, 1]


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 0},
        {"width": 1, "tree": "oak"},
        {"width": 1, "arity": 1},
        {"width": 1, "features": "x"},
        {"width": 1, "init_std": -1.0},
    ],
)
def test_bad_configurations_are_refused(arguments):
    with pytest.raises(ValidationError):
        CircuitConfig(**arguments)


def test_a_configuration_builds_its_circuit():
    circuit = CircuitConfig(width=4, shared=True).build((8, 8), levels=2, outputs=10, seed=1)
    assert circuit(torch.zeros(3, 1, 8, 8, dtype=torch.uint8)).shape == (3, 10)
    circuit = CircuitConfig(width=4, features="affine").build((8, 8), levels=9, outputs=1, seed=1)
    assert circuit(torch.rand(3, 1, 8, 8)).shape == (3,)


def test_the_cp_tree_pools_once_with_as_many_parameters():
    for width in (1, 3, 9):
        trees = ("grid", "cp")
        grid, cp = (
            CircuitConfig(width=width, tree=tree).build((8, 8), levels=2, outputs=1, seed=0)
            for tree in trees
        )
        assert cp.tree.depth == 1
        assert abs(grid.parameter_count - cp.parameter_count) <= 65


def test_one_hot_features_are_the_images(circuit):
    images = all_images(circuit)[:9]
    features = circuit.one_hot(images)
    assert features.shape == (9, circuit.levels, *circuit.image_shape)
    torch.testing.assert_close(circuit(features), circuit(images), rtol=1e-12, atol=0)


@pytest.mark.parametrize("side", [8, 28])
def test_the_starts_logarithm_has_the_spread_asked_for(side):
    circuits = [circuit_of((side, side), 1, init_std=0.1, seed=s) for s in range(60)]
    images = torch.randint(2, (20, side, side), generator=torch.Generator().manual_seed(1))
    logs = torch.stack([circuit(images).abs().log() for circuit in circuits])
    levels = circuits[0].tree.depth
    assert logs.std(0).mean().item() == pytest.approx(0.1 * levels**0.5, rel=0.2)
