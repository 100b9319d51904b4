import itertools
import time

import pytest
import torch
from pydantic import ValidationError

from bench.core.errors import UserError
from bench.models.hierarchical import HierarchicalConfig, HierarchicalTensorFactorization
from bench.models.mode_tree import ModeTree
from bench.models.product_pooling import evaluate_tree
from bench.models.replicates import stack_replicates

CASES = {
    "order 2": {"mode_dims": [3, 4], "widths": 5},
    "adjacent": {"mode_dims": [2, 2, 2, 2], "widths": [3, 4]},
    "left over": {"mode_dims": [2, 3, 2, 4, 3], "widths": [3, 2, 4]},
    "half": {"mode_dims": [2, 3, 4, 2, 3], "widths": [3, 2, 2], "pattern": "half"},
    "grid": {"mode_dims": [2] * 16, "widths": [2, 3], "arity": 4, "pattern": "grid"},
    "triples": {"mode_dims": [2, 3, 2, 2, 2, 3], "widths": [3, 2], "arity": 3},
    "one window": {"mode_dims": [3, 2, 4], "widths": 3, "arity": 3},
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def model(request):
    return HierarchicalTensorFactorization(**request.param, init_mean=0.3, init_std=0.7).double()


def entry(model, index):
    """One entry, node by node, straight from the definition."""
    tree = model.tree
    vectors = []
    for mode, weights in zip(tree.leaf_order, model.leaf_weights, strict=True):
        vectors.append(weights[index[mode]])
    levels = [*model.inner_weights, [model.root_weights.unsqueeze(1)]]
    for runs, level in zip(tree.window_groups, levels, strict=True):
        children = iter(vectors)
        arities = [run.arity for run in runs for _ in range(run.windows)]
        vectors = []
        for arity, weights in zip(arities, level, strict=True):
            product = torch.ones(len(weights), dtype=weights.dtype)
            for _ in range(arity):
                product = product * next(children)
            vectors.append(product @ weights)
    return vectors[0].squeeze()


def all_indices(model):
    return torch.tensor(list(itertools.product(*map(range, model.mode_dims))))


def network(model, features):
    """Apply the model's network to features of shape (batch, order, max(mode_dims))."""
    leaves = features[:, model.tree.leaf_order].movedim(0, 1).to(model.leaf_weights.dtype)
    levels = [model.leaf_weights, *model.inner_weights]
    return evaluate_tree(leaves, levels, model.root_weights[..., None], model.tree).squeeze(-1)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_full_tensor_is_the_definition(model):
    indices = all_indices(model)
    chosen = indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))[:40]]
    expected = torch.stack([entry(model, index) for index in chosen.tolist()])
    assert relative(model.full_tensor()[tuple(chosen.t())], expected) < 1e-12


def test_the_network_on_all_one_hot_inputs_is_the_full_tensor(model):
    features = torch.nn.functional.one_hot(all_indices(model), max(model.mode_dims))
    values = network(model, features).view(model.mode_dims)
    assert relative(values, model.full_tensor()) < 1e-12


def test_network_and_full_tensor_have_the_same_gradients(model):
    indices = all_indices(model)
    features = torch.nn.functional.one_hot(indices, max(model.mode_dims))
    parameters = list(model.parameters())
    weight = torch.randn(
        len(indices), dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    by_network = torch.autograd.grad((network(model, features) * weight).sum(), parameters)
    full = (model.full_tensor().flatten() * weight).sum()
    for a, b in zip(by_network, torch.autograd.grad(full, parameters), strict=True):
        assert relative(a, b) < 1e-12


def test_features_of_a_product_give_the_contracted_tensor(model):
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(1, len(model.mode_dims), max(model.mode_dims), generator=generator)
    features = features.double()
    expected = model.full_tensor()
    for mode, dim in enumerate(model.mode_dims):
        expected = torch.tensordot(features[0, mode, :dim], expected, dims=([0], [0]))
    assert relative(network(model, features), expected) < 1e-12


def test_replicates_are_computed_as_alone(model):
    other = HierarchicalTensorFactorization(
        model.mode_dims, model.widths, tree=model.tree, init_std=0.1, seed=1
    ).double()
    alone, stacked = [model, other], stack_replicates([model, other])
    for read in (
        lambda m: m.full_tensor(),
        *(lambda m, i=i: m.local_component_norms()[i] for i in range(model.tree.depth)),
        lambda m: m.effective_ranks()[(0,)],
    ):
        torch.testing.assert_close(read(stacked), torch.stack([read(m) for m in alone]))


def test_replicates_have_the_gradients_they_have_alone():
    models = [HierarchicalTensorFactorization([3] * 4, 2, seed=s, init_std=0.5) for s in (0, 1)]
    stacked = stack_replicates(models)
    for each in (stacked, *models):
        each.full_tensor().square().sum().backward()
    pairs = zip(stacked.parameters(), *(each.parameters() for each in models), strict=True)
    for together, first, second in pairs:
        torch.testing.assert_close(together.grad, torch.stack([first.grad, second.grad]))


def test_singular_values_are_those_of_the_matricizations(model):
    tensor = model.full_tensor()
    values = model.matricization_singular_values()
    assert set(values) == {tuple(sorted(n)) for level in model.tree.nodes[:-1] for n in level}
    for modes, each in values.items():
        rows = torch.Size([model.mode_dims[mode] for mode in modes]).numel()
        matrix = tensor.movedim(modes, tuple(range(len(modes)))).reshape(rows, -1)
        torch.testing.assert_close(each, torch.linalg.svdvals(matrix))


def test_gram_matrices_give_the_same_singular_values_at_any_order(model, monkeypatch):
    exact = model.matricization_singular_values()
    monkeypatch.setattr("bench.models.hierarchical.MAX_FULL_TENSOR", 0)
    for modes, each in model.matricization_singular_values().items():
        expected = exact[modes]
        kept = min(len(each), len(expected))
        torch.testing.assert_close(each[:kept], expected[:kept], rtol=1e-5, atol=1e-7)


def test_widths_bound_the_hierarchical_rank():
    model = HierarchicalTensorFactorization([4] * 4, [3, 2], init_std=1.0).double()
    for modes, values in model.matricization_singular_values().items():
        bound = 3 if len(modes) == 1 else 2
        assert (values[bound:] < 1e-12).all()
        assert (values[:bound] > 1e-6).all()


def test_local_component_norms_are_those_of_the_rank_one_tensors():
    model = HierarchicalTensorFactorization([2, 3, 4, 2], [3, 2], init_std=1.0).double()
    lower, root = model.local_component_norms()
    first, second = model.leaf_weights[0, :, 1], model.leaf_weights[1, :, 1]
    own = model.inner_weights[0][0][1]
    component = torch.einsum("i,j,s->ijs", first, second, own)
    torch.testing.assert_close(lower[0, 1], component.norm())
    left, right = model.inner_weights[0][:, :, 0]
    torch.testing.assert_close(
        root[0, 0], torch.outer(left, right).norm() * model.root_weights[0].abs()
    )


def test_singular_values_of_784_modes_have_one_norm():
    model = HierarchicalTensorFactorization([2] * 784, 3, 4, "grid", init_mean=0.5, init_std=0.1)
    norms = [values.norm() for values in model.matricization_singular_values().values()]
    assert len(norms) == 784 + 196 + 49
    torch.testing.assert_close(torch.stack(norms), norms[0].expand(len(norms)), rtol=1e-3, atol=0)


def test_weights_beyond_a_mode_never_move():
    model = HierarchicalTensorFactorization([2, 5, 3, 2], 4, init_std=0.5)
    model.full_tensor().square().sum().backward()
    beyond = torch.arange(5) >= torch.tensor(model.mode_dims).unsqueeze(1)
    assert (model.leaf_weights[beyond] == 0).all()
    assert (model.leaf_weights.grad[beyond] == 0).all()


def test_the_start_depends_on_the_seed_alone():
    starts = [
        HierarchicalConfig(width=3).factorize([2, 3, 2], seed).leaf_weights for seed in (0, 0, 1)
    ]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


@pytest.mark.parametrize(
    "arguments",
    [
        {"mode_dims": [4], "widths": 3},
        {"mode_dims": [2] * 4, "widths": 2, "pattern": "checkerboard"},
    ],
)
def test_what_does_not_fit_together_is_refused(arguments):
    with pytest.raises(UserError, match="expected"):
        HierarchicalTensorFactorization(**arguments)


def test_a_tree_of_ones_own():
    tree = ModeTree((((0, 2), (1,)), ((0, 1),)))
    model = HierarchicalTensorFactorization([2, 3, 4], 2, tree=tree, init_std=1.0).double()
    torch.testing.assert_close(model.full_tensor()[1, 2, 3], entry(model, (1, 2, 3)))
    assert (0, 2) in model.matricization_singular_values()


@pytest.mark.parametrize(
    "arguments",
    [
        {"width": 0},
        {"width": 1, "arity": 1},
        {"width": 1, "pattern": "x"},
        {"width": 1, "init_std": -1.0},
        {"width": 1, "init_mean": float("nan")},
    ],
)
def test_bad_configurations_are_refused(arguments):
    with pytest.raises(ValidationError):
        HierarchicalConfig(**arguments)


def published_network(model, indices):
    """Every observation through the network, as the published code does it."""
    values = torch.nn.functional.one_hot(indices, model.mode_dims[0]).float()
    for weights in (model.leaf_weights, *model.inner_weights):
        values = torch.einsum("bod,odr->bor", values, weights).permute(0, 2, 1)
        values = values.reshape(len(indices), values.shape[1], -1, 2).prod(-1).permute(0, 2, 1)
    return values.squeeze(1) @ model.root_weights


def read_entries(model, indices):
    return model.full_tensor()[tuple(indices.t())]


def completion_step(model, evaluate, indices, targets):
    model.zero_grad()
    (evaluate(indices) - targets).square().mean().backward()
    return torch.cat([each.grad.flatten() for each in model.parameters()])


def completion_problem():
    generator = torch.Generator().manual_seed(0)
    model = HierarchicalTensorFactorization([8] * 4, 512, init_std=0.05)
    entries = torch.randperm(8**4, generator=generator)[:2048]
    indices = torch.stack(torch.unravel_index(entries, (8,) * 4), 1)
    return model, indices, torch.randn(2048, generator=generator)


def test_the_fast_completion_step_has_the_published_values():
    model, indices, targets = completion_problem()
    slow = published_network(model, indices)
    assert relative(read_entries(model, indices), slow) < 1e-5
    fast_step = completion_step(model, lambda i: read_entries(model, i), indices, targets)
    slow_step = completion_step(model, lambda i: published_network(model, i), indices, targets)
    assert relative(fast_step, slow_step) < 1e-5


@pytest.mark.slow
def test_the_completion_step_is_much_faster_than_the_published_one():
    """`rankbench perf` measures how much on a quiet machine: more than 40 times."""
    model, indices, targets = completion_problem()

    def best(evaluate, repeats):
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            completion_step(model, evaluate, indices, targets)
            times.append(time.perf_counter() - start)
        return min(times)

    fast, slow = (
        best(lambda i: read_entries(model, i), 30),
        best(lambda i: published_network(model, i), 5),
    )
    print(f"full tensor {fast * 1e3:.2f} ms, published {slow * 1e3:.1f} ms, {slow / fast:.0f}x")
    assert slow >= 20 * fast
