import pytest
import torch

from bench.core.errors import UserError
from bench.core.settings import as_plain, validate
from bench.kernels.tproduct import (
    from_fourier,
    leading_tubal_subspace,
    singular_tubes,
    t_transpose,
    to_fourier,
)
from bench.measures.ranks import numerical_rank
from bench.models.replicates import stack_replicates
from data_prep.problems import (
    CompletionConfig,
    InnerProducts,
    LossConfig,
    MeasurementConfig,
    NormsOrRankConfig,
    ObservedEntries,
    TargetConfig,
)


def t_product(first, second):
    return from_fourier(to_fourier(first) @ to_fourier(second), first.shape[-1])


def target_of(family, mode_dims, rank, **values):
    given = {"family": family, "mode_dims": mode_dims, "rank": rank, **values}
    return validate(TargetConfig, given, "data.target")


def loss_config(kind="square", **values):
    return validate(LossConfig, {"kind": kind, **values}, "learner.loss")


TARGETS = [
    target_of("matrix", [6, 8], 3, norm=64.0),
    target_of("cp", [4, 4, 4], 2, norm=2.0),
    target_of("hierarchical", [4, 4, 4, 4], 3, norm=3.0),
    target_of("tubal", [5, 5, 4], 2, norm=4.0),
]


def problem(target, count=20, seed=0, dtype=torch.float64, **measurements):
    config = validate(MeasurementConfig, {"count": count, **measurements}, "data.measurements")
    values = {"name": "test", "target": as_plain(target), "measurements": as_plain(config)}
    data = validate(CompletionConfig, values, "data")
    return data.problem(seed, LossConfig(), dtype)


def tubal_rank(tensor):
    return int((singular_tubes(tensor).norm(dim=-1) > 1e-9).sum())


def matricization_rank(tensor, rows):
    kept = [n for n in range(tensor.ndim) if n not in rows]
    size = torch.Size([tensor.shape[n] for n in rows]).numel()
    matrix = tensor.permute(*rows, *kept).reshape(size, -1)
    return int(numerical_rank(torch.linalg.svdvals(matrix), tolerance=1e-9))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.family)
def test_targets_have_the_shape_and_norm_asked_for(target):
    drawn = problem(target).target
    assert tuple(drawn.shape) == target.mode_dims
    assert drawn.norm().item() == pytest.approx(target.norm)


def test_targets_have_the_rank_asked_for():
    matrix, cp, hierarchical, tubal = (problem(target).target for target in TARGETS)
    assert matricization_rank(matrix, [0]) == 3
    assert all(matricization_rank(cp, [n]) == 2 for n in range(3))
    nodes = [[0], [1], [2], [3], [0, 1]]
    assert all(matricization_rank(hierarchical, node) == 3 for node in nodes)
    assert matricization_rank(hierarchical, [0, 2]) > 3
    assert tubal_rank(tubal) == 2


@pytest.mark.parametrize("order", [2, 3, 5, 7])
def test_hierarchical_targets_of_any_order_have_the_rank_of_their_leaves(order):
    target = problem(target_of("hierarchical", [3] * order, 2), count=9).target
    assert all(matricization_rank(target, [n]) == 2 for n in range(order))


def test_the_root_of_an_orthonormal_target_has_the_singular_values_of_its_weights():
    """Products of orthonormal columns are orthonormal: what is left are the root's weights."""
    target = target_of("hierarchical", [5, 4, 5, 4], 3, norm=14**0.5, orthonormal=True)
    tensor = problem(target).target
    values = torch.linalg.svdvals(tensor.reshape(20, 20))
    expected = torch.tensor([3.0, 2.0, 1.0], dtype=values.dtype)
    torch.testing.assert_close(values[:3], expected)
    assert values[3] < 1e-12
    assert all(matricization_rank(tensor, [n]) == 3 for n in range(4))


def test_the_published_tubal_target_is_a_projection():
    target = problem(target_of("tubal", [10, 10, 4], 3, norm=None)).target
    assert tubal_rank(target) == 3
    torch.testing.assert_close(t_product(target, target), target)
    torch.testing.assert_close(t_transpose(target), target)


def test_a_photograph_is_a_tubal_target_of_the_rank_asked_for():
    target, other = (
        problem(target_of("tubal", [12, 12, 3], rank, photograph=True, norm=2.0)).target
        for rank in (3, 12)
    )
    assert tubal_rank(target) == 3
    assert target.norm() == pytest.approx(2)
    torch.testing.assert_close(t_transpose(target), target)
    # The greatest part of the whole picture is kept: its colors are about the same everywhere.
    whole = other * (target.flatten() @ other.flatten()) / other.square().sum()
    assert (target - whole).norm() < 0.1 * target.norm()
    assert "photograph" not in as_plain(target_of("tubal", [4, 4, 3], 1))


def test_observed_entries_are_distinct_and_read_the_target():
    completion = problem(TARGETS[2], count=100)
    indices = completion.operator.indices
    assert len(set(indices.tolist())) == 100
    assert torch.equal(completion.values, completion.target.flatten()[indices])
    everything = problem(TARGETS[1], count=64)
    assert torch.equal(everything.values, everything.target.flatten())


def test_every_entry_is_observed_equally_often():
    target = target_of("matrix", [4, 5], 1)
    counts = torch.zeros(20)
    for seed in range(600):
        counts[problem(target, count=5, seed=seed).operator.indices] += 1
    chi_square = ((counts - 150).square() / (150 * 0.75)).sum() * 19 / 20
    assert chi_square < 43.8  # the 99.9 % quantile for 19 degrees of freedom


def test_gaussian_measurements_are_inner_products_as_large_as_entries():
    target = target_of("cp", [4, 4, 4], 2, norm=3.0)
    sensing = problem(target, count=4000, kind="gaussian")
    operators = sensing.operator.operators.view(4000, 4, 4, 4)
    torch.testing.assert_close(
        sensing.values, torch.einsum("jabc,abc->j", operators, sensing.target)
    )
    assert sensing.values.square().mean().item() == pytest.approx(9 / 64, rel=0.1)
    assert operators.std().item() == pytest.approx(1 / 8, rel=0.01)


def test_symmetric_operators_equal_their_t_transposes():
    sensing = problem(TARGETS[3], kind="symmetric_gaussian")
    operators = sensing.operator.operators.view(20, 5, 5, 4)
    torch.testing.assert_close(t_transpose(operators), operators)
    projected = sensing.operator.back_project(sensing.values).view(5, 5, 4)
    expected = sum(
        value * operator for value, operator in zip(sensing.values, operators, strict=True)
    )
    torch.testing.assert_close(projected, expected)


def test_noise_has_the_level_asked_for_and_moves_nothing_else():
    target = target_of("matrix", [40, 50], 2)
    clean = problem(target, count=2000)
    noisy = problem(target, count=2000, noise_std=0.3)
    assert torch.equal(clean.target, noisy.target)
    assert torch.equal(clean.operator.indices, noisy.operator.indices)
    assert (noisy.values - clean.values).std().item() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.family)
def test_the_seed_determines_everything_and_more_observations_keep_the_target(target):
    first, again, other = problem(target), problem(target), problem(target, seed=1)
    assert torch.equal(first.target, again.target)
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.target, other.target)
    assert not torch.equal(first.operator.indices, other.operator.indices)
    assert torch.equal(first.target, problem(target, count=21).target)


def test_losses_are_what_they_are_called():
    residuals = torch.tensor([[0.5, -2.0], [0.0, 1.0]])
    square = torch.tensor([4.25, 1.0])
    torch.testing.assert_close(LossConfig()(residuals), square / 2)
    torch.testing.assert_close(LossConfig(reduction="sum")(residuals), square)
    half = loss_config("half_square", reduction="sum")
    torch.testing.assert_close(half(residuals), square / 2)
    torch.testing.assert_close(loss_config("l1")(residuals), torch.tensor([1.25, 0.5]))
    huber = loss_config("huber", huber_threshold=1.0, reduction="sum")
    torch.testing.assert_close(huber(residuals), torch.tensor([0.125 + 1.5, 0.5]))


@pytest.mark.parametrize("kind", ["square", "huber"])
def test_loss_gradients_equal_finite_differences(kind):
    residuals = torch.tensor([[0.3, -2.0], [0.1, 1.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss_config(kind), residuals)


@pytest.mark.parametrize("kind", ["entries", "symmetric_gaussian"])
def test_the_target_has_no_error_and_zero_has_error_one(kind):
    recovery = problem(TARGETS[3], kind=kind)
    ends = torch.stack([recovery.target, torch.zeros_like(recovery.target)])
    torch.testing.assert_close(recovery(ends)[0].item(), 0.0)
    expected = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(recovery.reconstruction_error(ends), expected)
    torch.testing.assert_close(recovery.train_error(ends), expected)


@pytest.mark.parametrize("kind", ["entries", "gaussian"])
def test_stacked_problems_equal_solo_problems(kind):
    solos = [problem(TARGETS[1], seed=seed, kind=kind) for seed in range(3)]
    stacked = stack_replicates(solos)
    ends = torch.stack([solo.target + seed for seed, solo in enumerate(solos)])
    for measure in ("forward", "train_error", "reconstruction_error"):
        expected = torch.stack(
            [getattr(solo, measure)(end) for solo, end in zip(solos, ends, strict=True)]
        )
        torch.testing.assert_close(getattr(stacked, measure)(ends), expected)


def test_one_problem_serves_many_end_tensors():
    recovery = problem(TARGETS[1])
    ends = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64, generator=torch.Generator())
    torch.testing.assert_close(recovery(ends)[1, 2], recovery(ends[1, 2]))


def test_the_two_by_two_problem_observes_all_but_the_upper_left_entry():
    recovery = NormsOrRankConfig().problem(0, LossConfig(), torch.float32)
    fitted = torch.tensor([[123.0, 1.0], [1.0, 0.0]], requires_grad=True)
    assert recovery(fitted).item() == 0
    recovery(fitted + 1).backward()
    assert fitted.grad is not None
    torch.testing.assert_close(fitted.grad, torch.tensor([[0.0, 2.0], [2.0, 2.0]]) / 3)


def test_problems_are_float32_unless_asked_and_move_between_precisions():
    recovery = problem(TARGETS[0], dtype=torch.float32)
    assert recovery.target.dtype == recovery.values.dtype == torch.float32
    assert recovery.operator.indices.dtype == torch.int64
    assert recovery.double().target.dtype == torch.float64


def test_operators_serve_tensors_of_their_order():
    tensor = torch.arange(24.0).view(2, 3, 4)
    assert ObservedEntries(torch.tensor([0, 23]), (2, 3, 4))(tensor).tolist() == [0, 23]
    assert InnerProducts(torch.ones(1, 12), 2)(tensor).tolist() == [[66.0], [210.0]]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: target_of("cube", [3, 3], 1), "target.family='cube'"),
        (lambda: target_of("matrix", [3, 3, 3], 1), "for a matrix"),
        (lambda: target_of("cp", [3], 1), "for a cp target"),
        (lambda: target_of("cp", [3, 0], 1), "target.mode_dims"),
        (lambda: target_of("tubal", [3, 4, 2], 1), "for a tubal target"),
        (lambda: target_of("matrix", [3, 4], 4), "an integer from 1 to 3"),
        (lambda: target_of("matrix", [3, 4], 0), "target.rank=0"),
        (lambda: target_of("cp", [2, 3, 4], 7), "an integer from 1 to 6"),
        (lambda: target_of("hierarchical", [5, 3, 4], 4), "an integer from 1 to 3"),
        (lambda: target_of("tubal", [3, 3, 9], 4), "an integer from 1 to 3"),
        (lambda: target_of("tubal", [3, 3, 4], 1, photograph=True), "three colors"),
        (lambda: target_of("matrix", [3, 4], 1, norm=0.0), "target.norm=0.0"),
        (lambda: target_of("cp", [3, 4], 1, orthonormal=True), "target.orthonormal=true"),
        (lambda: loss_config("cubic"), "loss.kind='cubic'"),
        (lambda: loss_config("huber", huber_threshold=0.0), "loss.huber_threshold=0.0"),
        (lambda: loss_config(reduction="max"), "loss.reduction='max'"),
        (lambda: problem(TARGETS[0], 0), "measurements.count=0"),
        (lambda: problem(TARGETS[0], kind="rows"), "measurements.kind='rows'"),
        (lambda: problem(TARGETS[0], noise_std=-1.0), "measurements.noise_std=-1.0"),
        (lambda: problem(TARGETS[1], count=65), "an integer from 1 to 64"),
        (lambda: problem(TARGETS[1], kind="symmetric_gaussian"), "for a cp target"),
    ],
)
def test_bad_input_is_named(make, named):
    with pytest.raises(UserError, match=named):
        make()


def test_orthonormal_factors_give_the_published_norm():
    """T * T^T has the norm of the unit of its rank, times the tubes' transform."""
    target = problem(target_of("tubal", [6, 6, 4], 2, norm=None)).target
    left = leading_tubal_subspace(target, 2)
    unit = torch.zeros(2, 2, 4, dtype=torch.float64)
    unit[..., 0] = torch.eye(2)
    torch.testing.assert_close(t_product(t_transpose(left), left), unit)
    assert target.norm().item() == pytest.approx(2**0.5)
