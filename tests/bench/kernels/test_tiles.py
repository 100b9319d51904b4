"""Compiled steps of stacked CP predictors: exact values, and bits that depend on nothing else."""

import numpy as np
import pytest
import torch

from bench.kernels import tiles
from bench.kernels.cp import slow_cp_components
from bench.kernels.lanes import LANES
from bench.kernels.patterns import Dictionary
from bench.models.cp import CPBlock


def images_of(samples, order, levels, share=0.3):
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, levels, (samples, order), dtype=np.uint8)
    images = np.where(draw.random((samples, order)) < share, pixels, 0).astype(np.uint8)
    images[:, 0] = levels - 1  # a constant pixel, of which no sample takes the other levels
    return images


def factors_of(kind, components, levels, order):
    draw = np.random.default_rng(1)
    shape = (components, levels, order)
    factors = 1 + 0.05 * draw.standard_normal(shape)
    if kind == "signs":
        factors *= np.where(draw.random(shape) < 0.02, -1, 1)
    elif kind == "tiny":
        tiny = draw.random(shape) < 6 / order / levels
        factors[tiny] = draw.choice([-1e-4, 1e-4], tiny.sum())
    elif kind == "zeros":
        factors[draw.random(shape) < 1 / order / levels] = 0
        factors[0, :, 0] = 0  # dead: every gradient but that of this pixel is 0
    elif kind == "vanishing":  # as training leaves them at levels that hardly any sample takes
        tiny = draw.random(shape) < 6 / order / levels
        factors[tiny] = 10.0 ** draw.uniform(-44, -10, tiny.sum())
    return torch.tensor(factors, dtype=torch.float32)


# What leaves the gradient in the first moment, and the factors as they are.
GRADIENT_ALONE = tuple(map(np.float32, (0, 1, 0, 0, 0, 0, 1)))


def rows(tiled):
    return tiled.view(-1, LANES).numpy()


class Problem:
    """Images with a dictionary, and a batch of them."""

    def __init__(self, images, levels, batch, **settings):
        self.dictionary = Dictionary(images, levels, batch, **settings)
        self.batch = batch
        indices = np.random.default_rng(2).permutation(len(images))[:batch]
        lists = self.dictionary.lists(self.dictionary.encode(images), indices)
        self.inputs = tiles.Inputs(self.dictionary.patterns, lists, images, indices)
        self.indices = torch.from_numpy(images[indices]).long()

    def wanted(self, members):
        draws = [np.random.default_rng([3, int(member)]) for member in members]
        targets = [2.0 * (draw.random(self.batch) < 0.3) for draw in draws]
        return torch.tensor(np.array(targets), dtype=torch.float32)

    def arguments(self, block):
        groups = (0, len(block.tiling.tile_starts) - 1)
        size = int(np.diff(block.tiling.tile_starts).max())
        room = tiles.workspace(self.dictionary, size, self.batch)
        outputs = np.empty((len(block.members), tiles.filled_up(self.batch)), dtype=np.float32)
        return block.tiling, groups, room, outputs

    def predict(self, block, arguments):
        """Return predictions and underflows."""
        underflows = torch.zeros(len(block.members), dtype=torch.int64)
        tiles.predict(self.inputs, rows(block.tiled), *arguments, underflows.numpy())
        return torch.from_numpy(arguments[3][:, : self.batch].copy()), underflows

    def descend(self, block, adam):
        """Return the losses before a step."""
        state = tuple(map(rows, (block.tiled, block.first_moments, block.second_moments)))
        targets = self.wanted(block.members).numpy()
        losses = torch.zeros(len(block.members), dtype=torch.float64)
        tiles.descend(self.inputs, state, *self.arguments(block), targets, adam, losses.numpy())
        return losses

    def evaluate(self, block):
        """Return predictions, underflows, losses and gradients."""
        found = self.predict(block, self.arguments(block))
        everyone = torch.ones(len(block.members), dtype=torch.bool)
        copy = block.select(everyone)
        losses = self.descend(copy, GRADIENT_ALONE)
        return *found, losses, copy.components(copy.first_moments)

    def train(self, block, steps=3):
        """Take steps, and return the factors."""
        for _ in range(steps):
            block.steps += 1
            self.descend(block, tiles.adam_constants(int(block.steps), 1e-3))
        return block.components()

    def exact(self, block):
        """Return predictions, losses and gradients in float64."""
        factors = block.components().double().requires_grad_()
        values = slow_cp_components(factors, self.indices)
        shape = (len(block.members), self.batch)
        predictions = values.new_zeros(shape).index_add(0, block.owner, values)
        losses = (predictions - self.wanted(block.members)).square().mean(1)
        (gradients,) = torch.autograd.grad(losses.sum(), factors)
        return predictions.detach(), losses.detach(), gradients


def block_of(ranks, factors):
    return CPBlock(torch.arange(len(ranks)), torch.tensor(ranks), factors)


def relative(ours, exact):
    """Return the largest error of a row, relative to the row's norm; 1e-11 is as good as 0."""
    error = (ours.double() - exact).flatten(1).norm(dim=1)
    return float((error / exact.flatten(1).norm(dim=1).clamp(min=1e-11)).max())


@pytest.mark.parametrize("kind", ["plain", "signs", "tiny", "zeros", "vanishing"])
@pytest.mark.parametrize(
    ("levels", "order", "batch", "ranks"),
    [
        (2, 784, 400, [1, 15, 2, 20]),
        (2, 64, 96, [1, 2, 33]),
        (3, 64, 50, [5, 4]),
        (256, 16, 60, [3]),
        (4, 7, 1, [2, 1]),
    ],
)
def test_values_and_gradients_are_those_of_float64(kind, levels, order, batch, ranks):
    problem = Problem(images_of(max(batch, 100), order, levels), levels, batch)
    block = block_of(ranks, factors_of(kind, sum(ranks), levels, order))
    predictions, _, losses, gradients = problem.evaluate(block)
    exact_predictions, exact_losses, exact_gradients = problem.exact(block)
    assert relative(predictions, exact_predictions) < 1e-5
    assert relative(gradients, exact_gradients) < 1e-5
    torch.testing.assert_close(losses, exact_losses, rtol=1e-5, atol=1e-12)
    taken = torch.stack([(problem.indices == level).any(0) for level in range(levels)])
    assert (gradients[:, ~taken] == 0).all()


def test_each_entry_of_the_gradient_is_exact_beside_a_small_factor():
    problem = Problem(images_of(400, 64, 2), 2, 300)
    factors = factors_of("signs", 3, 2, 64)
    factors[:, 0, 5], factors[:, 1, 9] = 1e-4, -1e-4
    factors[1:, 0, 7], factors[2:, 0, 11] = -1e-8, 1e-30
    block = block_of([1, 1, 1], factors)
    gradients, exact = problem.evaluate(block)[3], problem.exact(block)[2]
    torch.testing.assert_close(gradients.double(), exact, rtol=1e-4, atol=1e-8)
    small = block.components().abs() < 1e-3
    torch.testing.assert_close(gradients[small].double(), exact[small], rtol=1e-4, atol=0.0)


def test_a_factor_that_has_vanished_keeps_its_own_gradient_and_costs_nothing():
    problem = Problem(images_of(400, 64, 2), 2, 300)
    factors = factors_of("signs", 4, 2, 64)
    pixels = [5, 9, 20, 33]
    for row, size in enumerate([0.0, 1e-42, -1e-30, 1e-19]):
        factors[row, 1 - problem.dictionary.blank[pixels[row]], pixels[row]] = size
    block = block_of([1] * 4, factors)
    gradients, exact = problem.evaluate(block)[3], problem.exact(block)[2]
    for row, pixel in enumerate(pixels):
        torch.testing.assert_close(
            gradients[row, :, pixel].double(), exact[row, :, pixel], rtol=1e-5, atol=0.0
        )
    arguments = problem.arguments(block)
    problem.predict(block, arguments)
    assert (arguments[2].ways[0, :4] == tiles.NARROW).all()


def test_products_that_leave_the_range_on_their_way_are_exact():
    problem = Problem(images_of(100, 784, 2, share=1.0), 2, 50)
    blank = torch.from_numpy(problem.dictionary.blank.astype(np.int64))
    factors = factors_of("plain", 20, 2, 784)
    factors[1:, 0, :], factors[1:, 1, :] = 0.7, 1 / 0.7  # a blank image has 0.7 ** 784
    factors[2, 0, :300], factors[2, 1, :300] = 2.0, 0.5
    factors[3, blank, torch.arange(784)] = 1e-2  # and this one 1e-1568
    factors[4, blank, torch.arange(784)] = 1e2
    factors[4, 1 - blank, torch.arange(784)] = 1e-2
    factors[5] = 0.5  # every value is below the smallest number
    block = block_of([1] * 20, factors)
    predictions, underflows, _, _ = problem.evaluate(block)
    exact = problem.exact(block)[0]
    visible = exact.abs().clamp(max=3e38) * (exact.abs() > 1e-37)
    sound = (exact.abs() < 3e38) & (exact.abs() > 1e-37)
    torch.testing.assert_close(predictions.double()[sound], exact[sound], rtol=2e-5, atol=0.0)
    assert visible[1].any()
    below = (exact.abs() < 2.0**-126).sum(1)
    assert torch.equal(underflows, below)
    assert underflows[5] == 50
    assert underflows[0] == 0


@pytest.mark.parametrize(("spread", "way"), [(0.1, "NARROW"), (0.7, "MIXED"), (0.02, "WIDE")])
def test_factors_of_any_spread_are_exact_and_each_way_is_taken(spread, way):
    problem = Problem(images_of(300, 784, 2), 2, 200, shapes=((4, 4),), stripe_rows=500)
    draw = np.random.default_rng(0)
    size = np.exp(spread * draw.standard_normal((3, 2, 784)))
    blank = problem.dictionary.blank
    size[:, blank, np.arange(784)] = 1.0
    if way == "WIDE":  # a ratio of 1e39
        size[:, 1 - blank[5], 5], size[:, blank[5], 5], size[:, blank[0], 0] = 1e21, 1e-18, 1e-10
    factors = size * draw.choice([-1, 1], size.shape)
    block = block_of([1] * 3, torch.tensor(factors, dtype=torch.float32))
    arguments = problem.arguments(block)
    problem.predict(block, arguments)
    assert (arguments[2].ways[0, :3] == getattr(tiles, way)).all()
    predictions, _, _, gradients = problem.evaluate(block)
    exact_predictions, _, exact_gradients = problem.exact(block)
    assert relative(predictions, exact_predictions) < 1e-5
    assert relative(gradients, exact_gradients) < 1e-5


def test_a_value_that_is_exactly_zero_is_no_underflow():
    problem = Problem(images_of(100, 64, 2), 2, 50)
    factors = torch.ones(1, 2, 64)
    factors[0, 0, 3] = 0
    predictions, underflows, _, _ = problem.evaluate(block_of([1], factors))
    expected = (problem.indices[:, 3] == 1).float()
    torch.testing.assert_close(predictions[0], expected, rtol=0.0, atol=1e-17)
    assert underflows.tolist() == [0]


def test_training_is_that_of_torch_s_adam():
    problem = Problem(images_of(200, 64, 3), 3, 150)
    block = block_of([2, 3], factors_of("signs", 5, 3, 64))
    oracle = block.components().double().requires_grad_()
    optimizer = torch.optim.Adam([oracle], lr=1e-3)
    for _ in range(30):
        values = slow_cp_components(oracle, problem.indices)
        predictions = values.new_zeros(2, problem.batch).index_add(0, block.owner, values)
        optimizer.zero_grad()
        (predictions - problem.wanted(block.members)).square().mean(1).sum().backward()
        optimizer.step()
    ours = problem.train(block, 30).double()
    torch.testing.assert_close(ours, oracle.detach(), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("kind", ["signs", "tiny", "zeros", "vanishing"])
def test_a_predictor_gets_the_same_bits_in_every_stack(kind):
    ranks = [3, 1, 15, 20, 8, 7, 2, 16]
    problem = Problem(images_of(300, 64, 2), 2, 200)
    factors = list(factors_of(kind, sum(ranks), 2, 64).split(ranks))
    whole = block_of(ranks, torch.cat(factors))
    values = problem.evaluate(whole)
    parts = list(values[3].split(ranks))
    trained = list(problem.train(whole).split(ranks))
    for chosen in ([0], [3], [7, 1], [5, 2, 4, 6]):
        members = torch.tensor(chosen)
        part = CPBlock(
            members, torch.tensor(ranks)[members], torch.cat([factors[i] for i in chosen])
        )
        predictions, underflows, losses, gradients = problem.evaluate(part)
        assert torch.equal(predictions, values[0][members])
        assert torch.equal(underflows, values[1][members])
        assert torch.equal(losses, values[2][members])
        assert torch.equal(gradients, torch.cat([parts[i] for i in chosen]))
        assert torch.equal(problem.train(part), torch.cat([trained[i] for i in chosen]))


def test_one_component_that_is_not_finite_leaves_the_others_alone():
    problem = Problem(images_of(100, 64, 2), 2, 50)
    factors = factors_of("signs", 6, 2, 64)
    good = problem.evaluate(block_of([1] * 6, factors))
    factors[2, :, 3] = torch.nan
    factors[4, 1, 0] = torch.inf
    broken = problem.evaluate(block_of([1] * 6, factors))
    for ours, theirs in zip(broken, good, strict=True):
        assert torch.equal(ours[[0, 1, 3, 5]], theirs[[0, 1, 3, 5]])
    assert not broken[2][[2, 4]].isfinite().any()


def test_stripes_change_no_value_by_more_than_rounding():
    images = images_of(300, 64, 2)
    factors = factors_of("signs", 5, 2, 64)
    one = Problem(images, 2, 200).evaluate(block_of([5], factors))
    many = Problem(images, 2, 200, stripe_rows=20).evaluate(block_of([5], factors))
    torch.testing.assert_close(many[0], one[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(many[3], one[3], rtol=1e-4, atol=1e-6)


def test_every_predictor_has_its_lanes():
    ranks = np.array([1, 5, 40, 16, 3, 12, 12, 15])
    tiling = tiles.tile(ranks)
    starts, owners = tiling.tile_starts * LANES, tiling.owners
    assert (np.bincount(owners[owners >= 0]) == ranks).all()
    assert (owners[tiling.lanes] == np.repeat(np.arange(8), ranks)).all()
    assert len(owners) == starts[-1] + 1
    assert tiling.tile_starts[-1] <= np.ceil(ranks / LANES).sum()
    for owner, rank in enumerate(ranks):
        (lanes,) = np.nonzero(owners == owner)
        assert np.ptp(lanes) == rank - 1  # one after another
        assert len(set(np.searchsorted(starts, lanes, side="right"))) == 1  # in one group


def test_published_ranks_fill_their_tiles():
    ranks = np.repeat(np.arange(1, 16), 10)
    assert tiles.tile(ranks).tile_starts[-1] == ranks.sum() / LANES


def test_runs_of_groups_are_whole_and_one_a_thread():
    tiling = tiles.tile(np.full(7, 16))
    for threads in (1, 2, 3, 7, 50):
        runs = list(tiles.shares(tiling, threads))
        assert len(runs) == min(threads, 7)
        assert [i for first, last in runs for i in range(first, last)] == list(range(7))
