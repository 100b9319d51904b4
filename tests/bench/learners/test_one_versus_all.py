"""Stacked training against the obvious loop, and against training alone."""

import hashlib
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from bench.core.cell import Cell, Execution
from bench.core.errors import UserError
from bench.core.settings import Factory
from bench.core.status import Status
from bench.kernels.cp import slow_cp_components
from bench.learners.one_versus_all import OneVersusAllConfig
from bench.models.cp import CPConfig
from data_prep.digits import Digits
from data_prep.torchvision_images import MNIST


def cell(rank=5, seed=0, variant="original", data=Digits, lr=5e-4, max_epochs=6, every=2, **others):
    learner = {name: others.pop(name) for name in ("patience", "converged_below") if name in others}
    return Cell(
        variant,
        seed,
        data=data(**others),
        model=CPConfig(rank=rank),
        learner=OneVersusAllConfig(**learner),
        optimizer=Factory("torch.optim.Adam", {"lr": lr}),
        trainer=Factory("pytorch_lightning.Trainer", {"max_epochs": max_epochs}),
        execution=Execution(log_every_n_epochs=every, trainer={"accelerator": "cpu"}),
    )


def grid(**settings):
    return [
        cell(1, target_class=3, **settings),
        cell(4, target_class=3, **settings),
        cell(2, target_class=8, seed=1, **settings),
        cell(3, variant="random_labels", **settings),
    ]


GRID = grid()


def learner_of(cells, dtype=torch.float32):
    learner = cells[0].learner.build(cells).to(dtype)
    learner.start(torch.device("cpu"))
    return learner


def initial_factors(cell):
    return cell.learner.module(cell).factors.detach().permute(2, 1, 0).contiguous()


def factors_after(cells, steps, dtype):
    learner = learner_of(cells, dtype)
    batches = [indices for epoch in range(10) for indices in learner.batches(epoch)]
    for indices in batches[:steps]:
        learner.train_step(indices)
    return [state["factors"].permute(2, 1, 0) for state, _ in learner.block.trained()]


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


@pytest.mark.parametrize("levels", [2, 3, 17])
def test_compiled_steps_are_those_of_any_device(levels):
    cells = [cell(rank, levels=levels) for rank in (1, 4)]
    ours, plain = (factors_after(cells, 30, dtype) for dtype in (torch.float32, torch.float64))
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-4, atol=2e-6)
    errors = []
    for dtype in (torch.float32, torch.float64):
        learner = learner_of(cells, dtype)
        errors.append([learner.errors(name)[0] for name in ("train", "test")])
    torch.testing.assert_close(*errors, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5)], ids=str
)
def test_training_is_adam_on_the_squared_loss(dtype, tolerance):
    (one,) = factors_after([GRID[1]], 20, dtype)
    learner = learner_of([GRID[1]])
    oracle = initial_factors(GRID[1]).double().requires_grad_()
    optimizer = torch.optim.Adam([oracle], lr=5e-4)
    inputs = learner.data.split(None, "train").inputs.long()
    labels = learner.data.split(None, "train").labels
    batches = [indices for epoch in range(2) for indices in learner.batches(epoch)]
    for indices in batches[:20]:
        prediction = slow_cp_components(oracle, inputs[indices]).sum(0)
        loss = (prediction - 2.0 * (labels[indices] == 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(one.double(), oracle.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_errors_are_in_units_of_labels_and_clipped_on_test_data(dtype):
    learner = learner_of(GRID[:1], dtype)
    factors = torch.ones(1, 2, 64, dtype=dtype)
    factors[0, :, 0] = torch.tensor([3.0, 10.0])  # predicts 3, or 10 at a bright pixel
    learner.block.fill(learner.block.tiled, factors)
    for name, most in (("test", 1.0), ("train", torch.inf)):
        target = 2.0 * (learner.data.split(None, name).labels == 3)
        prediction = torch.where(learner.parts[name].inputs[:, 0] == 1, 10.0, 3.0)
        expected = ((prediction - target) ** 2 / 4).clamp(max=most).mean()
        assert learner.errors(name)[0].item() == pytest.approx(expected.item())


def test_norm_and_margin_are_those_of_the_trained_predictors():
    cells = grid(max_epochs=4)
    learner = cells[0].learner.build(cells)
    learner.fit([])
    train = Digits().split(None, "train")
    for one, outcome in zip(cells, learner.run_log.outcomes, strict=True):
        module = one.learner.module(one)
        module.load_state_dict(outcome.weights)
        part = one.data.randomized(train, one.variant, one.seed)
        sign = 2.0 * (part.labels == one.data.target_class) - 1
        first = slice(0, one.data.batch_size)
        with torch.no_grad():
            margins = (module(part.inputs[first]) - 1) * sign[first]
            drawn = torch.randint(2, (200_000, 64), dtype=torch.uint8)
            size = module(drawn).double().square().mean().sqrt().log10()
        assert outcome.metrics["margin"] == pytest.approx(margins.quantile(0.1).item(), abs=1e-5)
        assert outcome.metrics["log10_norm"] == pytest.approx(size.item(), abs=0.02)


def test_start_values_do_not_depend_on_the_other_predictors_and_have_the_published_spread():
    wide = cell(15, data=MNIST)
    start = initial_factors(wide)
    assert start.shape == (15, 2, 784)
    assert start.dtype == torch.float32
    assert start.mean().item() == pytest.approx(1, abs=1e-4)
    assert start.std().item() == pytest.approx(1e-3, rel=0.02)
    assert torch.equal(start, initial_factors(wide))
    assert not torch.equal(start, initial_factors(cell(15, data=MNIST, seed=1)))


def fitted(cells, hooks=(), checkpoint=None):
    learner = cells[0].learner.build(cells)
    learner.fit(hooks, checkpoint)
    return learner


def test_a_predictor_that_diverges_leaves_the_others_alone():
    cells = grid(every=3)
    learner, whole = cells[0].learner.build(cells), fitted(cells)
    factors = learner.block.components()
    factors[1] = torch.nan  # a component of the second predictor
    learner.block.fill(learner.block.tiled, factors)
    learner.fit([])
    ours, theirs = learner.run_log, whole.run_log
    statuses = [outcome.status for outcome in ours.outcomes]
    assert statuses == [Status.MAX_STEPS, Status.DIVERGED, Status.MAX_STEPS, Status.MAX_STEPS]
    for i in (0, 2, 3):
        assert ours.curves[i] == theirs.curves[i]
        weights = [log.outcomes[i].weights["factors"] for log in (ours, theirs)]
        assert torch.equal(*weights)


def test_a_converged_predictor_is_frozen_and_the_others_go_on():
    cells = grid(max_epochs=4)
    learner, whole = cells[0].learner.build(cells), fitted(cells)
    train_epoch = learner.train_epoch

    def met_the_criterion(batches):
        train_epoch(batches)
        if int(learner.epoch) == 0:  # as if the first predictor had met it often enough
            learner.epochs_below[0] = learner.config.patience
            learner.losses[0] = 0.0

    learner.train_epoch = met_the_criterion
    first = learner.block.components()[:1].clone()
    learner.fit([])
    ours, theirs = learner.run_log, whole.run_log
    assert ours.outcomes[0].status is Status.CONVERGED
    assert ours.curves[0][-1]["epoch"] == 1
    assert ours.curves[1][-1]["epoch"] == 4
    assert not torch.equal(ours.outcomes[0].weights["factors"].permute(2, 1, 0), first)
    assert ours.curves[1] == theirs.curves[1]
    weights = [log.outcomes[1].weights["factors"] for log in (ours, theirs)]
    assert torch.equal(*weights)


def test_training_ends_after_so_many_epochs_in_a_row_below_the_criterion():
    cells = [cell(patience=3, converged_below=1.0, max_epochs=20)]
    learner = cells[0].learner.build(cells)
    losses = iter([2.0, 0.5, 0.5, 1.5, 0.5, 0.5, 0.5, 0.5])
    learner.train_epoch = lambda batches: learner.losses.fill_(next(losses))
    learner.fit([])
    (outcome,) = learner.run_log.outcomes
    assert outcome.status is Status.CONVERGED
    assert outcome.metrics["epoch"] == 7
    assert outcome.metrics["running_train_error"] == 0.5 / 4


class Saving:
    """Writes a checkpoint after a number of intervals, and stops the training."""

    def __init__(self, path, intervals):
        self.path, self.intervals = path, intervals

    def __call__(self, learner):
        self.intervals -= 1
        if self.intervals == 0:
            learner.epochs_below[-1] = 7
            learner.save_checkpoint(self.path)
            raise KeyboardInterrupt


def test_a_resumed_stack_is_the_uninterrupted_one_in_every_bit(tmp_path):
    whole, path = fitted(GRID), tmp_path / "stack.ckpt"
    with pytest.raises(KeyboardInterrupt):
        fitted(GRID, [Saving(path, 2)])
    second = GRID[0].learner.build(GRID)
    started, train_epoch = [], second.train_epoch

    def noted(batches):
        started.append((int(second.epoch), int(second.epochs_below[-1])))
        train_epoch(batches)

    second.train_epoch = noted
    second.fit([], path)
    assert started[0] == (4, 7)
    for ours, theirs in zip(second.run_log.outcomes, whole.run_log.outcomes, strict=True):
        assert torch.equal(ours.weights["factors"], theirs.weights["factors"])
        assert ours.metrics == theirs.metrics
    assert second.run_log.curves == whole.run_log.curves


def wide_grid(threads):
    """Return cells of three groups of tiles, one of which takes two tiles."""
    settings = {"target_class": 3, "max_epochs": 4, "every": 2}
    cells = [cell(14, **settings), cell(20, **settings), cell(9, seed=1, **settings)]
    cells.append(cell(5, variant="random_labels", **settings))
    return [replace(one, execution=replace(one.execution, threads=threads)) for one in cells]


def digests(folder):
    """Train alike in many ways; return the set of digests of all bits, and of the start's."""
    found, cells = set(), wide_grid(1)
    starts = [initial_factors(one).numpy().tobytes() for one in cells]
    for threads in (1, 2):
        cells = wide_grid(threads)
        for division in ([[0, 1, 2, 3]], [[3], [1], [0], [2]], [[2, 0], [3, 1]], "resumed"):
            bits = {}
            for chosen in [range(4)] if division == "resumed" else division:
                stack, checkpoint = [cells[i] for i in chosen], None
                if division == "resumed":
                    checkpoint = folder / f"{threads}.ckpt"
                    with suppress(KeyboardInterrupt):
                        fitted(stack, [Saving(checkpoint, 1)])
                log = fitted(stack, checkpoint=checkpoint).run_log
                for i, curve, outcome in zip(chosen, log.curves, log.outcomes, strict=True):
                    bits[i] = repr(curve).encode(), outcome.weights["factors"].numpy().tobytes()
            joined = b"".join(part for i in range(4) for part in bits[i])
            found.add(hashlib.sha256(joined).hexdigest())
    return sorted(found), hashlib.sha256(b"".join(starts)).hexdigest()


OLD_PROCESSORS = [
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {
        "ATEN_CPU_CAPABILITY": "default",
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX2,-FMA",
    },
]


@pytest.mark.slow
@pytest.mark.parametrize("processor", OLD_PROCESSORS, ids=["avx2", "default"])
def test_every_division_thread_and_processor_gives_the_same_bits(processor, here, tmp_path):
    script = "import sys, pathlib, test_one_versus_all as tests\n"
    script += "print(tests.digests(pathlib.Path(sys.argv[1])))"
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    call = [sys.executable, "-c", script, str(tmp_path)]
    environment = {**os.environ, **processor, "PYTHONPATH": path}
    found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert len(here[0]) == 1
    assert found.stdout.strip() == repr(here)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Return this processor's digests."""
    return digests(tmp_path_factory.mktemp("here"))


def test_training_goes_on_from_any_epoch_to_whole_intervals():
    cells = grid(max_epochs=10, every=4)
    learner = cells[0].learner.build(cells)
    learner.epoch.fill_(6)
    orders = []
    learner.train_epoch = orders.append
    learner.losses.fill_(1.0)
    learner.fit([])
    assert [point["epoch"] for point in learner.run_log.curves[0]] == [8, 10]
    for epoch, batches in enumerate(orders, 6):
        assert torch.equal(torch.cat(list(batches)), torch.cat(list(learner.batches(epoch))))


def test_the_memory_estimate_grows_linearly_with_the_components():
    config = OneVersusAllConfig()
    sizes = [config.memory([cell(rank)] * 10) for rank in (16, 32, 64)]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=1e-6)
    assert sizes[0] < 100e6


GROWTH = """
from pathlib import Path
import torch
from bench.learners.one_versus_all import OneVersusAllConfig
from test_one_versus_all import MNIST, cell

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

cells = [cell(rank, data=MNIST) for rank in range(1, 16) for _ in range(10)]
config = OneVersusAllConfig()
before = peak()
learner = config.build(cells)
learner.start(torch.device("cpu"))
learner.train_step(learner.batches(0)[0])
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
    learner = learner_of(GRID[:1])  # compiles what is not in Numba's cache yet
    learner.train_step(torch.arange(96))
    learner.errors("test")
    found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert 0.75 < float(found.stdout) < 1.25


def test_a_checkpoint_of_another_grid_is_refused(tmp_path):
    learner_of(GRID[:2]).save_checkpoint(tmp_path / "stack.ckpt")
    with pytest.raises(UserError, match="2 other cells"):
        fitted(GRID[2:], checkpoint=tmp_path / "stack.ckpt")


@pytest.mark.parametrize(
    ("target", "arguments"), [("SGD", {"lr": 0.1}), ("Adam", {"lr": 0.1, "weight_decay": 0.1})]
)
def test_an_optimizer_whose_steps_it_does_not_take_is_refused(target, arguments):
    other = replace(GRID[0], optimizer=Factory(f"torch.optim.{target}", arguments))
    with pytest.raises(UserError, match=f"optimizer={target}.*expected optimizer=adam"):
        other.learner.check([other])


def test_a_trainer_argument_without_effect_is_refused():
    trainer = Factory("pytorch_lightning.Trainer", {"max_epochs": 3, "gradient_clip_val": 1.0})
    with pytest.raises(UserError, match=r"trainer.gradient_clip_val=1\.0: expected max_epochs"):
        GRID[0].learner.check([replace(GRID[0], trainer=trainer)])


@pytest.mark.slow
@pytest.mark.real_data
def test_training_stays_accurate_over_120_steps_of_mnist():
    cells = [cell(15, data=MNIST)]
    ours, plain = (factors_after(cells, 120, dtype) for dtype in (torch.float32, torch.float64))
    assert (ours[0] - plain[0]).norm() / (plain[0] - 1).norm() < 1e-3


def test_a_step_size_that_is_too_large_ends_as_diverged():
    cells = [cell(3, seed=seed, lr=1e3, max_epochs=500, every=10) for seed in (0, 1)]
    learner = fitted(cells)
    for outcome in learner.run_log.outcomes:
        assert outcome.status is Status.DIVERGED
        assert outcome.metrics["epoch"] < 500
        assert 0 < outcome.metrics["last_finite_loss"] < float("inf")
    assert len(learner.block.members) == 0
