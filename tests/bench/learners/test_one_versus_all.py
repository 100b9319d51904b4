"""Stacked training against the obvious loop, and against training alone."""

import os
import subprocess
import sys

import pytest
import torch

from bench.config import Cell, compose, plain, scientific, typed, with_values
from bench.errors import UserError
from bench.kernels.cp import slow_cp_components
from bench.learners.base import EpochsConfig
from bench.learners.one_versus_all import initial_factors
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
    learner.prepare()
    return learner, data


def factors_after(cells, steps, dtype):
    learner, data = learner_of(cells, dtype)
    batches = [indices for epoch in range(10) for indices in data.batches(epoch)]
    for indices in batches[:steps]:
        learner.train_step(indices)
    return learner.block.predictor_factors()


def test_a_stack_trains_each_predictor_as_alone_in_float64():
    together = factors_after(GRID, 50, torch.float64)
    for i, one in enumerate(GRID):
        (alone,) = factors_after([one], 50, torch.float64)
        assert (together[i] - alone).abs().max() < 1e-9


def test_a_stack_trains_each_predictor_as_alone_in_every_bit_on_a_cpu():
    together = factors_after(GRID, 50, torch.float32)
    for i, one in enumerate(GRID):
        (alone,) = factors_after([one], 50, torch.float32)
        assert torch.equal(together[i], alone)


def test_the_number_of_threads_changes_no_bit():
    cells = [cell(model__rank=12, data__target_class=target) for target in range(5)]
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(torch.cat(factors_after(cells, 5, torch.float32)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("levels", [2, 3, 17])
def test_compiled_steps_are_those_of_any_device(levels):
    cells = [cell(model__rank=rank, data__levels=levels) for rank in (1, 4)]
    ours, plain = (factors_after(cells, 30, dtype) for dtype in (torch.float32, torch.float64))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-4, atol=2e-6)
    errors = []
    for dtype in (torch.float32, torch.float64):
        learner, _ = learner_of(cells, dtype)
        errors.append([learner.errors(name)[0] for name in ("train", "test")])
    torch.testing.assert_close(*errors, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)], ids=str
)
def test_training_is_adam_on_the_squared_loss(dtype, tolerance):
    (one,) = factors_after([GRID[1]], 20, dtype)
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
    torch.testing.assert_close(one.double(), oracle.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_errors_are_in_units_of_labels_and_clipped_on_test_data(dtype):
    learner, data = learner_of(GRID[:1], dtype)
    factors = torch.ones(1, 2, 64, dtype=dtype)
    factors[0, :, 0] = torch.tensor([3.0, 10.0])  # predicts 3, or 10 at a bright pixel
    learner.block.fill(learner.block.tiled, factors)
    for name, most in (("test", 1.0), ("train", torch.inf)):
        target = 2.0 * (data.data.split(None, name).labels == 3)
        prediction = torch.where(data.parts[name].inputs[:, 0] == 1, 10.0, 3.0)
        expected = ((prediction - target) ** 2 / 4).clamp(max=most).mean()
        assert learner.errors(name)[0].item() == pytest.approx(expected.item())


def test_start_values_do_not_depend_on_the_other_predictors_and_have_the_published_spread():
    wide = cell(model__rank=15, data=MNIST)
    start = initial_factors(wide)
    assert start.shape == (15, 2, 784)
    assert start.dtype == torch.float32
    assert start.mean().item() == pytest.approx(1, abs=1e-4)
    assert start.std().item() == pytest.approx(1e-3, rel=0.02)
    assert torch.equal(start, initial_factors(wide))
    assert not torch.equal(start, initial_factors(cell(model__rank=15, data=MNIST, seed=1)))


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
    factors = learner.block.components()
    factors[1] = torch.nan  # a component of the second predictor
    learner.block.fill(learner.block.tiled, factors)
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
    first = learner.block.components()[:1].clone()

    def ended_at_once():
        if int(learner.epoch) == 1:
            learner.calm[0] = learner.patience  # as if the first had met the criterion so often
        return ended()

    def end_and_look(statuses, optimizer):
        end_early(statuses, optimizer)
        seen.append(learner.block.members.tolist())

    learner.ended, learner.end_early = ended_at_once, end_and_look
    trainer.fit(learner, datamodule=data)
    assert seen == [[1, 2, 3]] * 4
    assert learner.outcomes[0].status is Status.CONVERGED
    assert learner.curves[0][-1]["epoch"] == 1
    assert learner.curves[1][-1]["epoch"] == 4
    frozen = learner.outcomes[0].weights["factors"].permute(2, 1, 0)
    assert not torch.equal(frozen, first.cpu())
    whole, whole_data, whole_trainer = fit(GRID, max_epochs=4, log_every_n_epochs=2)
    whole_trainer.fit(whole, datamodule=whole_data)
    assert learner.curves[1] == whole.curves[1]
    assert torch.equal(learner.outcomes[1].weights["factors"], whole.outcomes[1].weights["factors"])


def test_training_ends_after_so_many_epochs_in_a_row_below_the_criterion():
    learner, data, trainer = fit(
        [cell(learner__patience=3, learner__converged_below=1.0)], max_epochs=20
    )
    losses = iter([2.0, 0.5, 0.5, 1.5, 0.5, 0.5, 0.5, 0.5])
    learner.train_epoch = lambda batches, optimizer: learner.losses.fill_(next(losses))
    trainer.fit(learner, datamodule=data)
    assert learner.outcomes[0].status is Status.CONVERGED
    assert learner.outcomes[0].metrics["epoch"] == 7
    assert learner.outcomes[0].metrics["running_train_error"] == 0.5 / 4


def test_a_resumed_stack_is_the_uninterrupted_one_in_every_bit(tmp_path):
    whole, whole_data, whole_trainer = fit(GRID, max_epochs=6, log_every_n_epochs=2)
    whole_trainer.fit(whole, datamodule=whole_data)
    first, data, trainer = fit(GRID, max_epochs=6, log_every_n_epochs=2)
    measure, calls = first.measure, []

    def measure_and_stop():
        measure()
        calls.append(int(first.epoch))
        trainer.should_stop = len(calls) == 2

    first.measure = measure_and_stop
    trainer.fit(first, datamodule=data)
    assert calls == [2, 4]
    first.calm[2] = 7
    trainer.save_checkpoint(tmp_path / "stack.ckpt")
    second, data, trainer = fit(GRID, max_epochs=6, log_every_n_epochs=2)
    started = []
    begin = second.prepare
    second.prepare = lambda: (started.append((int(second.epoch), int(second.calm[2]))), begin())
    trainer.fit(second, datamodule=data, ckpt_path=tmp_path / "stack.ckpt", weights_only=True)
    assert started == [(4, 7)]
    for ours, theirs in zip(second.outcomes, whole.outcomes, strict=True):
        assert torch.equal(ours.weights["factors"], theirs.weights["factors"])
        assert ours.metrics == theirs.metrics
    assert second.curves == whole.curves


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
    assert sizes[0] < 100e6


GROWTH = """
from pathlib import Path
from bench.config import typed
from bench.learners.base import EpochsConfig
from test_one_versus_all import MNIST, cell

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

cells = [cell(data=MNIST, model__rank=rank) for rank in range(1, 16) for _ in range(10)]
config = typed(cells[0].config["learner"], "learner")
before = peak()
learner, data = config.build(cells, EpochsConfig(), None)
learner.parts = data.parts
learner.prepare()
learner.train_step(data.batches(0)[0])
learner.errors("test")
print((peak() - before) / config.memory(cells))
"""


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the peak")
def test_the_memory_estimate_is_right_for_mnist():
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    call = [sys.executable, "-c", GROWTH]
    environment = {**os.environ, "PYTHONPATH": path}
    learner, _ = learner_of(GRID[:1])  # compiles what is not in Numba's cache yet
    learner.train_step(torch.arange(96))
    learner.errors("test")
    found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert 0.75 < float(found.stdout) < 1.25


def test_a_checkpoint_of_another_grid_is_refused():
    learner, _ = learner_of(GRID[:2])
    checkpoint = {}
    learner.on_save_checkpoint(checkpoint)
    other, _ = learner_of(GRID[2:])
    with pytest.raises(UserError, match="2 other cells"):
        other.on_load_checkpoint(checkpoint)


@pytest.mark.slow
@pytest.mark.real_data
def test_training_stays_accurate_over_120_steps_of_mnist():
    cells = [cell(data=MNIST, model__rank=15)]
    ours, plain = (factors_after(cells, 120, dtype) for dtype in (torch.float32, torch.float64))
    assert (ours[0] - plain[0]).norm() / (plain[0] - 1).norm() < 1e-3


def test_a_step_size_that_is_too_large_ends_as_diverged():
    cells = [cell(model__rank=3, learner__learning_rate=1e3, seed=seed) for seed in (0, 1)]
    learner, data, trainer = fit(cells, max_epochs=500, log_every_n_epochs=10)
    trainer.fit(learner, datamodule=data)
    for outcome in learner.outcomes:
        assert outcome.status is Status.DIVERGED
        assert outcome.metrics["epoch"] < 500
        assert 0 < outcome.metrics["last_finite_loss"] < float("inf")
    assert len(learner.block.members) == 0
