import math

import pytest
import torch

from bench.config import Cell, typed, with_values
from bench.errors import UserError
from bench.learners.base import Outcome
from bench.learners.dynamics import Dynamics, ReplicateState
from bench.learners.steps import StepsConfig
from bench.run import Settings, run
from bench.status import Status
from bench.sweep import prepare
from bench.tracking.tracker import Place
from bench.tracking.wandb_runs import TrackingConfig

BENCHMARKS = {name: f"{name}_completion" for name in ("tensor", "matrix", "hierarchical")} | {
    name: name for name in ("tubal_sensing", "norms_or_rank", "theory")
}


def cells_of(tmp_path, name="tensor", values=None, count=None, preset="quick"):
    """Return the first cells of a benchmark's quick preset, with other values."""
    sweep = prepare(BENCHMARKS[name], [f"preset={preset}", f"runs_dir={tmp_path}"])
    short = {"trainer.max_steps": 60, "trainer.measurements": 3, "learner.converged_below": 0.0}
    cells = [Cell.of(with_values(c.config, {**short, **(values or {})})) for c in sweep.cells]
    return list({cell.run_key: cell for cell in cells}.values())[:count]


def train(tmp_path, cells, seconds=1e9, on_progress=lambda learner: None):
    place = Place(tmp_path, "test", TrackingConfig(), "disabled")
    trainer = StepsConfig(accelerator="cpu", checkpoint_every_s=seconds)
    return run(cells, Settings(place, trainer), on_progress)


def weights(outcome):
    assert isinstance(outcome, Outcome)
    return outcome.weights


def assert_same_end(ours, theirs):
    assert ours.status == theirs.status
    assert ours.weights.keys() == theirs.weights.keys()
    for name, values in ours.weights.items():
        torch.testing.assert_close(values, theirs.weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["tensor", "matrix", "tubal_sensing"])
def test_the_number_of_measurements_does_not_change_the_training(tmp_path, name):
    ends = []
    for measurements in (1, 7, 60):
        values = {"trainer.measurements": measurements, "learner.milestones": []}
        if name == "tubal_sensing":
            values = {"trainer.measurements": measurements}
        cells = cells_of(tmp_path, name, values, count=2)
        learner = train(tmp_path / str(measurements), cells)
        assert len(learner.curves[0]) == measurements + 1
        ends.append(learner.outcomes)
    for chunked in ends[1:]:
        for ours, theirs in zip(ends[0], chunked, strict=True):
            assert_same_end(ours, theirs)


@pytest.mark.parametrize("name", ["tensor", "matrix", "hierarchical", "tubal_sensing"])
def test_stacked_replicates_end_as_they_do_alone(tmp_path, name):
    values = {"learner.precision": "float64"}
    cells = cells_of(tmp_path, name, values, count=3)
    key = typed(cells[0].config["learner"], "learner").stack_key
    cells = [cell for cell in cells if key(cell) == key(cells[0])]
    assert len(cells) >= 2
    stacked = train(tmp_path / "stack", cells)
    for i, cell in enumerate(cells):
        alone = train(tmp_path / f"alone{i}", [cell])
        ours, theirs = weights(stacked.outcomes[i]), weights(alone.outcomes[0])
        for parameter, expected in theirs.items():
            torch.testing.assert_close(ours[parameter], expected, rtol=1e-9, atol=1e-14)
        assert stacked.curves[i][-1]["train_loss"] == pytest.approx(
            alone.curves[0][-1]["train_loss"], rel=1e-9
        )


def test_a_resumed_run_ends_bitwise_as_a_straight_one(tmp_path):
    """A replicate has left the stack at the checkpoint, others leave it later."""
    values = {"learner.converged_below": 2e-4, "learner.check_every": 5, "learner.patience": 1}
    values |= {"trainer.max_steps": 600, "trainer.measurements": 120}
    cells = cells_of(tmp_path, values=values)[-6:]
    straight = train(tmp_path / "straight", cells)
    assert len({curve[-1]["iteration"] for curve in straight.curves}) > 2

    class Interrupt(Exception):
        pass

    partial = []

    def interrupt(learner):
        if len(learner.state.members) < len(cells):
            partial.append(learner.iteration)
        if len(partial) == 3:  # the checkpoint before this one holds fewer replicates
            raise Interrupt

    with pytest.raises(Interrupt):
        train(tmp_path / "resumed", cells, seconds=0.0, on_progress=interrupt)
    resumed = train(tmp_path / "resumed", cells)
    for ours, theirs in zip(resumed.outcomes, straight.outcomes, strict=True):
        assert_same_end(ours, theirs)
        assert ours.metrics == theirs.metrics
    assert resumed.curves == straight.curves


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path):
    cells = cells_of(tmp_path, values={"model.init_std": 0.1})
    assert len(cells) == 3
    first, again = train(tmp_path / "a", cells), train(tmp_path / "b", cells)
    assert first.curves == again.curves
    assert len({curve[-1]["train_loss"] for curve in first.curves}) == 3


def test_a_step_size_that_diverges_is_recorded_with_its_iteration(tmp_path):
    values = {"learner.optimizer": "gradient_descent", "learner.learning_rate": 1e6}
    values |= {"model.init_std": 0.5, "learner.check_every": 7}
    (cell,) = cells_of(tmp_path, values=values, count=1)
    learner = train(tmp_path, [cell])
    (outcome,) = learner.outcomes
    assert outcome.status is Status.DIVERGED
    # The slow way: the same steps one by one.
    config = typed(cell.config["learner"], "learner")
    other = Dynamics([cell], config, StepsConfig(max_steps=60))
    optimizer = other.configure_optimizers()
    losses = []
    while not losses or math.isfinite(losses[-1]):
        optimizer.zero_grad()
        loss = other.problem(other.model.full_tensor()).sum()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert outcome.metrics["diverged_at"] == len(losses) - 1
    assert outcome.metrics["last_finite_loss"] == pytest.approx(losses[-2])


def test_training_stops_after_the_loss_was_low_in_successive_checks(tmp_path):
    base = {"learner.check_every": 5, "learner.converged_below": 9e-4}
    base |= {"trainer.max_steps": 300, "trainer.measurements": 300}
    ends = {}
    for patience in (1, 4):
        cells = cells_of(tmp_path, values={**base, "learner.patience": patience}, count=1)
        learner = train(tmp_path / str(patience), cells)
        assert learner.outcomes[0].status is Status.CONVERGED
        ends[patience] = learner.curves[0]
    last = ends[1][-1]
    assert last["train_loss"] < 9e-4
    assert last["iteration"] % 5 == 0
    before = [p for p in ends[1][:-1] if p["iteration"] % 5 == 0]
    assert all(p["train_loss"] >= 9e-4 for p in before)
    assert ends[4][-1]["iteration"] == last["iteration"] + 15


def test_the_time_limit_ends_runs_at_equal_flow_time(tmp_path):
    for rate in (0.5, 0.1):
        values = {"learner.optimizer": "gradient_descent", "learner.learning_rate": rate}
        values |= {"learner.check_every": 1, "trainer.time_limit": 5.0}
        cells = cells_of(tmp_path, values=values, count=1)
        learner = train(tmp_path / str(rate), cells)
        assert learner.outcomes[0].status is Status.MAX_STEPS
        assert learner.curves[0][-1]["flow_time"] == pytest.approx(5.0)


def test_the_divergence_is_found_among_the_losses_since_the_last_check():
    state = ReplicateState(1, 4, torch.float64)
    for iteration, loss in enumerate([9.0, 8.0, 7.0, 6.0, 5.0, math.inf, math.nan, math.nan]):
        state.losses[0, iteration % 4] = loss
        if iteration % 4 == 0:
            state.remember_finite(state.losses[:, 0])
    state.losses[0, 0] = math.nan
    assert state.divergence(0, 8) == (5, 5.0)


def test_schedules_rise_to_the_last_step():
    linear = StepsConfig(max_steps=100, measurements=4).schedule()
    assert linear == [25, 50, 75, 100]
    logarithmic = StepsConfig(max_steps=1000, measurements=6, spacing="logarithmic").schedule()
    assert logarithmic == [3, 10, 32, 100, 316, 1000]
    assert StepsConfig(max_steps=3, measurements=10).schedule() == [1, 2, 3]


@pytest.mark.parametrize("preset", ["published", "quick"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_preset_composes(tmp_path, name, preset):
    sweep = prepare(BENCHMARKS[name], [f"preset={preset}", f"runs_dir={tmp_path}"])
    assert len(sweep.stacks()) >= 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_quick_preset_runs_shortened(tmp_path, name):
    values = {"trainer.max_steps": 3, "trainer.measurements": 3}
    cells = cells_of(tmp_path, name, values)
    key = typed(cells[0].config["learner"], "learner").stack_key
    for cell in {key(cell): cell for cell in cells}.values():
        (outcome,) = train(tmp_path / cell.run_key, [cell]).outcomes
        assert outcome.status is Status.MAX_STEPS
        assert math.isfinite(outcome.metrics["train_loss"])


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("tensor", "data.measurements.count=1001", "an integer from 1 to 1000"),
        ("matrix", "data.target.rank=33", "an integer from 1 to 32"),
        ("tensor", "learner.loss.huber_threshold=0", "learner.loss.huber_threshold"),
        ("tubal_sensing", "data.target.mode_dims=[10,9,4]", "square slices"),
        ("matrix", "model=tubal", "three modes"),
        ("hierarchical", "model.width=2", "more than the target's rank"),
        ("tensor", "learner.measures=[speed]", "learner.measures"),
        ("tensor", "learner.measures=[unobserved_entry]", "data=norms_or_rank"),
        ("matrix", "learner.measures=[growth]", "component_drives"),
        ("hierarchical", "data.target.rank=5", "a rank under 5"),
        ("tensor", "learner.measures=[tubal_angles]", "data.target.family=tubal"),
        ("tensor", "learner.learning_rate=0", "learner.learning_rate=0"),
        ("tensor", "learner.optimizer=adam", "group_rmsprop or gradient_descent"),
        ("tensor", "learner.patience=0", "learner.patience=0"),
        ("tensor", "trainer.spacing=cubic", "linear or logarithmic"),
        ("tensor", "trainer.time_limit=-1", "trainer.time_limit"),
        ("tensor", "variant=random_labels", "of a generated problem"),
    ],
)
def test_bad_input_is_named_in_one_line(tmp_path, name, override, said):
    overrides = ["preset=quick", f"runs_dir={tmp_path}", override]
    with pytest.raises(UserError, match=said) as caught:
        prepare(BENCHMARKS[name], overrides)
    assert "\n" not in str(caught.value)
