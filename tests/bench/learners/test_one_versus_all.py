"""Stacked training against the obvious loop, and against training alone."""

import pytest
import torch

from bench.config import Cell, compose, plain, scientific, typed, with_values
from bench.errors import UserError
from bench.kernels.cp import cp_components, slow_cp_components
from bench.kernels.indicators import IndicatorBatch
from bench.learners.base import EpochsConfig
from bench.learners.one_versus_all import initial_factors
from bench.seeding import generator
from bench.status import Status


def cell(**values):
    config = scientific(plain(compose([])))
    return Cell.of(with_values(config, {key.replace("__", "."): v for key, v in values.items()}))


MNIST = scientific(plain(compose(["data=mnist"])))["data"]

GRID = [
    cell(model__rank=1, data__target_class=3),
    cell(model__rank=4, data__target_class=3),
    cell(model__rank=2, data__target_class=8, seed=1),
    cell(model__rank=3, data__target_class=0, variant="random_labels"),
]


def learner_of(cells, dtype=torch.float32, **trainer):
    config = typed(cells[0].config["learner"], "learner")
    learner, data = config.build(cells, EpochsConfig(**trainer), None)
    learner.to(dtype)
    learner.parts = data.parts
    return learner, data


def factors_after(cells, steps, dtype):
    learner, data = learner_of(cells, dtype)
    optimizer = learner.configure_optimizers()
    batches = [indices for epoch in range(10) for indices in data.batches(epoch)]
    for indices in batches[:steps]:
        learner.train_step(indices, optimizer)
    found = {}
    for block in learner.stack:
        found |= dict(zip(block.members.tolist(), block.predictor_factors(), strict=True))
    return [found[i] for i in range(len(cells))]


def test_a_stack_trains_each_predictor_as_alone_in_float64():
    together = factors_after(GRID, 50, torch.float64)
    for i, one in enumerate(GRID):
        (alone,) = factors_after([one], 50, torch.float64)
        assert (together[i] - alone).abs().max() < 1e-9


def test_a_stack_trains_each_predictor_as_alone_in_float32():
    together = factors_after(GRID, 50, torch.float32)
    for i, one in enumerate(GRID):
        (alone,) = factors_after([one], 50, torch.float32)
        assert (together[i] - alone).abs().max() < 1e-6


def test_training_is_adam_on_the_squared_loss():
    (one,) = factors_after([GRID[1]], 20, torch.float64)
    _, data = learner_of([GRID[1]])
    oracle = initial_factors(GRID[1]).double().requires_grad_()
    optimizer = torch.optim.Adam([oracle], lr=5e-4)
    inputs = data.data.split(None, "train").inputs.long()
    labels = data.data.split(None, "train").labels
    batches = [indices for epoch in range(2) for indices in data.batches(epoch)]
    for indices in batches[:20]:
        prediction = slow_cp_components(oracle, inputs[indices]).sum(0)
        loss = (prediction - 2.0 * (labels[indices] == 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(one, oracle.detach(), rtol=1e-9, atol=1e-9)


def test_errors_are_in_units_of_labels_and_clipped_on_test_data():
    learner, data = learner_of(GRID[:1], torch.float64)
    (block,) = learner.stack
    block.factors.data.fill_(1.0)
    block.factors.data[:, :, 0] = torch.tensor([3.0, 10.0])  # predicts 3, or 10 at a bright pixel
    bright = data.parts["test"].inputs[:, 0].bool()
    target = 2.0 * (data.data.split(None, "test").labels == 3)
    prediction = torch.where(bright, 10.0, 3.0)
    expected = ((prediction - target) ** 2 / 4).clamp(max=1).mean()
    assert learner.errors(block, "test")[0].item() == pytest.approx(expected.item())
    target = 2.0 * (data.data.split(None, "train").labels == 3)
    bright = data.parts["train"].inputs[:, 0].bool()
    expected = ((torch.where(bright, 10.0, 3.0) - target) ** 2 / 4).mean()
    assert learner.errors(block, "train")[0].item() == pytest.approx(expected.item())


def fit(cells, **trainer):
    import pytorch_lightning as lightning

    config = typed(cells[0].config["learner"], "learner")
    learner, data = config.build(cells, EpochsConfig(**trainer), None)
    return (
        learner,
        data,
        lightning.Trainer(
            max_epochs=-1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ),
    )


def test_a_predictor_that_diverges_leaves_the_others_alone():
    learner, data, trainer = fit(GRID, max_epochs=6, log_every_n_epochs=3)
    whole, whole_data, whole_trainer = fit(GRID, max_epochs=6, log_every_n_epochs=3)
    with torch.no_grad():
        learner.stack[0].factors[1] = torch.nan  # a component of the second predictor
    trainer.fit(learner, datamodule=data)
    whole_trainer.fit(whole, datamodule=whole_data)
    statuses = [outcome.status for outcome in learner.outcomes]
    assert statuses == [Status.MAX_STEPS, Status.DIVERGED, Status.MAX_STEPS, Status.MAX_STEPS]
    for i in (0, 2, 3):
        assert learner.curves[i] == whole.curves[i]
        assert torch.equal(
            learner.outcomes[i].weights["factors"], whole.outcomes[i].weights["factors"]
        )


def test_a_converged_predictor_is_frozen_and_the_others_go_on():
    learner, data, trainer = fit(GRID, max_epochs=4, log_every_n_epochs=2)
    seen = []
    ended, end_early = learner.ended, learner.end_early
    first = learner.stack[0].factors[:1].clone()

    def ended_at_once():
        if int(learner.epoch) == 1:
            learner.losses[0] = 0.0  # as if the first predictor had reached the criterion
        return ended()

    def end_and_look(statuses, optimizer):
        end_early(statuses, optimizer)
        seen.append([block.members.tolist() for block in learner.stack])

    learner.ended, learner.end_early = ended_at_once, end_and_look
    trainer.fit(learner, datamodule=data)
    assert seen == [[[1, 2, 3]]] * 4
    assert learner.outcomes[0].status is Status.CONVERGED
    assert learner.curves[0][-1]["epoch"] == 1
    assert learner.curves[1][-1]["epoch"] == 4
    frozen = learner.outcomes[0].weights["factors"].permute(2, 1, 0)
    assert not torch.equal(frozen, first.cpu())
    whole, whole_data, whole_trainer = fit(GRID, max_epochs=4, log_every_n_epochs=2)
    whole_trainer.fit(whole, datamodule=whole_data)
    assert learner.curves[1] == whole.curves[1]


def test_training_goes_on_from_any_epoch_to_whole_intervals():
    learner, data, trainer = fit(GRID, max_epochs=10, log_every_n_epochs=4)
    learner.epoch.fill_(6)
    orders = []
    learner.train_epoch = lambda batches, optimizer: orders.append(batches)
    learner.losses.fill_(1.0)
    trainer.fit(learner, datamodule=data)
    assert [point["epoch"] for point in learner.curves[0]] == [8, 10]
    for epoch, batches in enumerate(orders, 6):
        assert torch.equal(torch.cat(list(batches)), torch.cat(list(data.batches(epoch))))


def test_the_memory_estimate_grows_linearly_with_the_components():
    config = typed(GRID[0].config["learner"], "learner")
    sizes = [config.memory([cell(model__rank=rank)] * 10) for rank in (10, 20, 40)]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=1e-6)
    assert sizes[0] < 50e6


def test_a_checkpoint_of_another_grid_is_refused():
    learner, _ = learner_of(GRID[:2])
    checkpoint = {}
    learner.on_save_checkpoint(checkpoint)
    other, _ = learner_of(GRID[2:])
    with pytest.raises(UserError, match="2 other cells"):
        other.on_load_checkpoint(checkpoint)


@pytest.mark.slow
@pytest.mark.real_data
def test_values_and_gradients_stay_accurate_over_500_steps_of_mnist():
    learner, data = learner_of([cell(data=MNIST, model__rank=15)])
    optimizer = learner.configure_optimizers()
    steps = 0
    while steps < 500:
        for indices in data.batches(steps // 12):
            learner.train_step(indices, optimizer)
            steps += 1
    (block,) = learner.stack
    inputs = IndicatorBatch(learner.parts["train"].inputs[:5000], 2)
    weights = torch.randn(15, 5000, generator=generator(0, "weights"), dtype=torch.float64)
    found = []
    for dtype in (torch.float32, torch.float64):
        factors = block.factors.detach().to(dtype).requires_grad_()
        values, _ = cp_components(factors, inputs)
        (gradient,) = torch.autograd.grad((values * weights.to(dtype)).sum(), factors)
        found.append((values.detach().double(), gradient.double().flatten(1)))
    for ours, exact in zip(*found, strict=True):
        assert ((ours - exact).norm(dim=1) / exact.norm(dim=1)).max() < 2e-5


def test_a_step_size_that_is_too_large_ends_as_diverged():
    cells = [cell(model__rank=3, learner__learning_rate=1e3, seed=seed) for seed in (0, 1)]
    learner, data, trainer = fit(cells, max_epochs=500, log_every_n_epochs=10)
    trainer.fit(learner, datamodule=data)
    for outcome in learner.outcomes:
        assert outcome.status is Status.DIVERGED
        assert outcome.metrics["epoch"] < 500
        assert 0 < outcome.metrics["last_finite_loss"] < float("inf")
    assert learner.stack == []
