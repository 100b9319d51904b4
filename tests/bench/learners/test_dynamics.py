"""Full-batch training of factorizations: stacks, resumption, stop rules, measures, bad input."""

import math
from functools import cache

import pytest
import torch

from bench.core.errors import UserError
from bench.core.seeding import derive_seed
from bench.core.settings import TRUSTED
from bench.core.status import Status
from bench.learners.base import Outcome
from bench.learners.dynamics import Dynamics, StepsConfig
from bench.learners.dynamics_measures import (
    Errors,
    Measure,
    measure_class,
    rank_one_trajectories,
)
from bench.measures.ranks import rank_one_directions
from bench.plan import check, plan_benchmark, stacks

BENCHMARKS = {name: f"{name}_completion" for name in ("tensor", "matrix", "hierarchical")} | {
    name: name for name in ("tubal_sensing", "norms_or_rank", "theory")
}


@cache
def planned(benchmark, *overrides):
    return plan_benchmark(benchmark, overrides).cells


def cells_of(name="tensor", values=None, count=None):
    """Return the first cells of a benchmark's quick grid, with other values."""
    short = {"trainer.max_steps": 60, "trainer.measurements": 3, "learner.converged_below": 0.0}
    given = {**short, "trainer.accelerator": "cpu", **(values or {})}
    overrides = [f"{key}={value}" for key, value in given.items()]
    benchmark = BENCHMARKS[name]
    return planned(benchmark, f"experiment={benchmark}/quick", *overrides)[:count]


def train(cells, *hooks, checkpoint=None):
    learner = cells[0].learner.build(cells)
    learner.fit(hooks, checkpoint)
    return learner


def weights(outcome):
    assert isinstance(outcome, Outcome)
    return outcome.weights


def assert_same_end(ours, theirs):
    assert ours.status == theirs.status
    assert ours.weights.keys() == theirs.weights.keys()
    for name, values in ours.weights.items():
        torch.testing.assert_close(values, theirs.weights[name], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["tensor", "matrix", "tubal_sensing"])
def test_the_number_of_measurements_does_not_change_the_training(name):
    ends = []
    for measurements in (1, 7, 60):
        values = {"trainer.measurements": measurements, "learner.milestones": []}
        if name == "tubal_sensing":
            values = {"trainer.measurements": measurements}
        cells = cells_of(name, values, count=2)
        learner = train(cells)
        assert len(learner.run_log.curves[0]) == measurements + 1
        ends.append(learner.run_log.outcomes)
    for chunked in ends[1:]:
        for ours, theirs in zip(ends[0], chunked, strict=True):
            assert_same_end(ours, theirs)


@pytest.mark.parametrize("name", ["tensor", "matrix", "hierarchical", "tubal_sensing"])
def test_stacked_replicates_end_as_they_do_alone(name):
    values = {"learner.precision": "float64"}
    cells = cells_of(name, values, count=3)
    key = cells[0].learner.stack_key
    cells = [cell for cell in cells if key(cell) == key(cells[0])]
    assert len(cells) >= 2
    stacked = train(cells)
    for i, cell in enumerate(cells):
        alone = train([cell])
        ours, theirs = weights(stacked.run_log.outcomes[i]), weights(alone.run_log.outcomes[0])
        for parameter, expected in theirs.items():
            torch.testing.assert_close(ours[parameter], expected, rtol=1e-9, atol=1e-14)
        ours, theirs = stacked.run_log.curves[i][-1], alone.run_log.curves[0][-1]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-9)


def test_a_resumed_run_ends_bitwise_as_a_straight_one(tmp_path):
    """A replicate has left the stack at the checkpoint, others leave it later."""
    values = {"learner.converged_below": 2e-4, "learner.check_every": 5, "learner.patience": 1}
    values |= {"trainer.max_steps": 600, "trainer.measurements": 120}
    cells = cells_of(values=values)[-6:]
    straight = train(cells).run_log
    assert len({curve[-1]["iteration"] for curve in straight.curves}) > 2

    class Interrupt(Exception):
        pass

    class InterruptPartway:
        intervals = 0

        def __call__(self, learner):
            if len(learner.members) < len(cells):
                self.intervals += 1
            if self.intervals == 3:
                learner.save_checkpoint(tmp_path / "checkpoint")
                raise Interrupt

    with pytest.raises(Interrupt):
        train(cells, InterruptPartway())
    resumed = train(cells, checkpoint=tmp_path / "checkpoint").run_log
    for ours, theirs in zip(resumed.outcomes, straight.outcomes, strict=True):
        assert_same_end(ours, theirs)
        assert ours.metrics == theirs.metrics
    assert resumed.curves == straight.curves
    with pytest.raises(UserError, match="a checkpoint of 6 other cells"):
        train(cells[:2], checkpoint=tmp_path / "checkpoint")


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others():
    cells = cells_of(values={"model.init_std": 0.1})
    assert len(cells) == 3
    first, again = train(cells).run_log, train(cells).run_log
    assert first.curves == again.curves
    assert len({curve[-1]["train_loss"] for curve in first.curves}) == 3


def test_a_step_size_that_diverges_is_recorded_with_its_iteration():
    values = {"optimizer": "gradient_descent", "optimizer.lr": 1e6}
    values |= {"model.init_std": 0.5, "learner.check_every": 7}
    (cell,) = cells_of(values=values, count=1)
    learner = train([cell])
    (outcome,) = learner.run_log.outcomes
    assert outcome.status is Status.DIVERGED
    # The slow way: the same steps one by one.
    other = Dynamics([cell], cell.learner)
    optimizer = other.make_optimizer()
    losses = []
    while not losses or math.isfinite(losses[-1]):
        optimizer.zero_grad()
        loss = other.problem(other.model.full_tensor()).sum()
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
    assert outcome.metrics["diverged_at"] == len(losses) - 1
    assert outcome.metrics["last_finite_loss"] == pytest.approx(losses[-2])


def test_training_stops_after_the_loss_was_low_in_successive_checks():
    base = {"learner.check_every": 5, "learner.converged_below": 9e-4}
    base |= {"trainer.max_steps": 300, "trainer.measurements": 300}
    ends = {}
    for patience in (1, 4):
        cells = cells_of(values={**base, "learner.patience": patience}, count=1)
        learner = train(cells)
        assert learner.run_log.outcomes[0].status is Status.CONVERGED
        ends[patience] = learner.run_log.curves[0]
    last = ends[1][-1]
    assert last["train_loss"] < 9e-4
    assert last["iteration"] % 5 == 0
    before = [p for p in ends[1][:-1] if p["iteration"] % 5 == 0]
    assert all(p["train_loss"] >= 9e-4 for p in before)
    assert ends[4][-1]["iteration"] == last["iteration"] + 15


def test_training_stops_where_the_published_code_does():
    """There an epoch is checked by the loss before its step, and then the run ends."""
    values = {"learner.check_every": 5, "learner.patience": 2, "learner.converged_below": 9e-4}
    values |= {"trainer.max_steps": 300, "trainer.measurements": 1}
    (cell,) = cells_of(values=values, count=1)
    learner = train([cell])
    other = Dynamics([cell], cell.learner)
    optimizer, epoch, in_a_row = other.make_optimizer(), 0, 0
    while in_a_row < 2:
        optimizer.zero_grad()
        loss = other.problem(other.model.full_tensor()).sum()
        loss.backward()
        optimizer.step()
        if (epoch + 1) % 5 == 0:
            in_a_row = in_a_row + 1 if loss < 9e-4 else 0
        epoch += 1
    assert learner.run_log.curves[0][-1]["iteration"] == epoch < 300
    ended = learner.run_log.outcomes[0].weights
    assert torch.equal(ended["factors"], other.model.state_dict()["factors"][0])


def test_repeats_go_on_or_start_afresh_as_in_the_published_loop():
    """The slow way: repeats in a loop, of which some draw new weights [TUB, released code]."""
    values = {"learner.milestone_period": 6, "learner.milestone_repeats": 4}
    values |= {"learner.milestones": "[2,6]", "learner.restarts": "[12]", "model.init_std": 0.1}
    values |= {"trainer.max_steps": 24, "trainer.measurements": 12}
    (cell,) = cells_of("tubal_sensing", values, count=1)
    (outcome,) = train([cell]).run_log.outcomes
    other = Dynamics([cell], cell.learner)
    optimizer, errors = other.make_optimizer(), {2: [], 6: []}
    for repeat in range(4):
        if repeat == 2:
            seed = derive_seed(cell.seed, "restart", 12)
            fresh = cell.model.factorize(cell.data.mode_dims, seed)
            other.model.factor.data.copy_(fresh.factor.detach())
        for step in range(1, 7):
            optimizer.zero_grad()
            other.problem(other.model.full_tensor()).sum().backward()
            optimizer.step()
            if step in errors:
                end = other.model.full_tensor().detach()
                errors[step].append(float(other.problem.reconstruction_error(end)))
    for step, values in errors.items():
        assert outcome.metrics[f"error_at_{step}"] == pytest.approx(sum(values) / 4, rel=1e-12)
    assert errors[6][1] < errors[6][0]
    assert errors[2][2] > errors[6][1]


def test_the_time_limit_ends_runs_at_equal_flow_time():
    for rate in (0.5, 0.1):
        values = {"optimizer": "gradient_descent", "optimizer.lr": rate}
        values |= {"learner.check_every": 1, "trainer.time_limit": 5.0}
        learner = train(cells_of(values=values, count=1))
        assert learner.run_log.outcomes[0].status is Status.MAX_STEPS
        assert learner.run_log.curves[0][-1]["flow_time"] == pytest.approx(5.0)


def test_a_run_that_its_last_step_breaks_has_diverged():
    values = {"optimizer": "gradient_descent", "optimizer.lr": 1e30, "model.init_std": 0.5}
    values |= {"learner.check_every": 1, "trainer.time_limit": 5.0}
    (outcome,) = train(cells_of(values=values, count=1)).run_log.outcomes
    assert outcome.status is Status.DIVERGED
    assert outcome.metrics["diverged_at"] == 1


def test_the_last_finite_loss_is_found_between_two_checks():
    values = {"optimizer": "gradient_descent", "optimizer.lr": 100.0, "model.init_std": 0.5}
    values |= {"trainer.max_steps": 100, "trainer.measurements": 1}
    ends = []
    for every in (1, 50):
        (cell,) = cells_of(values=values | {"learner.check_every": every}, count=1)
        (outcome,) = train([cell]).run_log.outcomes
        assert outcome.status is Status.DIVERGED
        ends.append([outcome.metrics[name] for name in ("diverged_at", "last_finite_loss")])
    assert ends[0] == ends[1]
    assert 1 < ends[0][0] < 50


def test_a_start_whose_loss_is_not_finite_has_diverged():
    values = {"model.init_std": 1e200, "learner.precision": "float64"}
    (outcome,) = train(cells_of(values=values, count=1)).run_log.outcomes
    assert outcome.status is Status.DIVERGED
    assert outcome.metrics["diverged_at"] == 0
    assert math.isnan(outcome.metrics["last_finite_loss"])


def test_angles_are_measured_without_the_errors_too():
    cells = cells_of("tubal_sensing", {"learner.measures": "[tubal_angles]"}, count=1)
    (outcome,) = train(cells).run_log.outcomes
    assert 0 <= outcome.metrics["angle_to_target"] <= 1


def test_schedules_rise_to_the_last_step():
    linear = StepsConfig(max_steps=100, measurements=4).schedule()
    assert linear == [25, 50, 75, 100]
    logarithmic = StepsConfig(max_steps=1000, measurements=6, spacing="logarithmic").schedule()
    assert logarithmic == [3, 10, 32, 100, 316, 1000]
    assert StepsConfig(max_steps=3, measurements=10).schedule() == [1, 2, 3]


def test_recovery_is_an_error_below_one_percent():
    curve = [{"reconstruction_error": 0.5}, {"reconstruction_error": 0.0099}]
    assert Errors.summary(Errors.__new__(Errors), curve, 0) == {"recovered": 1.0}
    curve[-1]["reconstruction_error"] = 0.0101
    assert Errors.summary(Errors.__new__(Errors), curve, 0) == {"recovered": 0.0}


def test_trajectories_of_rank_one_lead_along_a_target_of_rank_one_to_it():
    """All of it is seen, so every trajectory is a growing multiple of the target."""
    whole = {"data.target.rank": 1, "data.measurements.count": 64, "learner.loss.kind": "huber"}
    cells = cells_of(values={"data.target.mode_dims": "[4,4,4]", **whole}, count=2)
    learner = cells[0].learner.build(cells)
    found = rank_one_trajectories(learner.problem, starts=2, points=80)
    target = learner.problem.target.flatten(1)[:, None, None]
    shares = (found * target).sum(-1) / target.square().sum(-1)
    torch.testing.assert_close(found, shares.unsqueeze(-1) * target, rtol=0, atol=1e-5)
    assert (shares[..., 0] < 1e-3).all()
    # To the target, but for steps of a set length that end around it.
    torch.testing.assert_close(shares[..., -1], torch.ones(2, 2), rtol=0, atol=0.05)
    growing = shares < 0.9
    assert (shares.diff(dim=-1)[growing[..., :-1]] > 0).all()


def test_a_component_that_starts_like_a_trajectory_stays_on_it():
    values = {"data.target.mode_dims": "[4,4,4]", "model.rank": 1, "trainer.max_steps": 600}
    values |= {"learner.measures": "[rank_one_distance]", "trainer.measurements": 60}
    values |= {"data.target.rank": 1, "data.measurements.count": 48, "optimizer.lr": 3e-3}
    (cell,) = cells_of(values=values, count=1)
    distances = []
    for align in (True, False):
        learner = cell.learner.build([cell])
        (measure,) = learner.measures
        if align:
            slope = -torch.autograd.functional.jacobian(
                learner.problem, torch.zeros_like(learner.problem.target)
            )[0, 0]
            vectors, _ = rank_one_directions(slope, 4)
            start = torch.stack([each[0] for each in vectors]).unsqueeze(-1)
            learner.model.factors.data[0] = 1e-2 * start
        learner.fit([])
        distances.append(learner.run_log.outcomes[0].metrics["largest_trajectory_distance"])
    assert measure.trajectories.shape == (1, 4, 200, 64)
    assert distances[0] < 0.01 < distances[1]


@pytest.mark.parametrize("grid", ["published", "quick"])
@pytest.mark.parametrize("name", BENCHMARKS.values())
def test_every_grid_composes(name, grid):
    cells = plan_benchmark(name, [f"experiment={name}/quick"] if grid == "quick" else []).cells
    check(cells, 3.0)
    assert len(stacks(cells, 3.0, len(cells))) >= 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_quick_grid_runs_shortened(name):
    cells = cells_of(name, {"trainer.max_steps": 3, "trainer.measurements": 3})
    key = cells[0].learner.stack_key
    for cell in {key(cell): cell for cell in cells}.values():
        (outcome,) = train([cell]).run_log.outcomes
        assert outcome.status is Status.MAX_STEPS
        assert math.isfinite(outcome.metrics["train_loss"])


def test_replicates_differ_in_seed_and_scale_alone():
    def keys(values=None):
        return {cell.learner.stack_key(cell) for cell in cells_of(values=values)}

    assert len(keys()) == 1
    assert keys({"model.init_std": 0.2}) == keys()
    for values in ({"optimizer.lr": 0.1}, {"model.rank": 9}, {"learner.patience": 2}):
        assert len(keys() | keys(values)) == 2


def test_any_optimizer_of_torch_trains_and_one_that_mixes_entries_trains_alone():
    adam = cells_of(values={"optimizer": "adam"}, count=2)
    assert adam[0].learner.stack_key(adam[0]) == adam[1].learner.stack_key(adam[1])
    assert all(outcome.status is Status.MAX_STEPS for outcome in train(adam).run_log.outcomes)
    values = {"optimizer": "adam", "optimizer._target_": "torch.optim.Adafactor"}
    others = cells_of(values=values, count=2)
    assert others[0].learner.stack_key(others[0]) != others[1].learner.stack_key(others[1])


class Largest(Measure):
    """A measure of somebody else's."""

    def forward(self, model, problem, end_tensor):
        """Return the largest entry."""
        return {"largest": end_tensor.flatten(1).abs().amax(1)}


def test_a_measure_is_found_by_its_dotted_name(monkeypatch):
    monkeypatch.setattr("bench.core.settings.TRUSTED", [*TRUSTED, __name__])
    name = f"{__name__}.Largest"
    (cell,) = cells_of(values={"learner.measures": f"[{name}]"}, count=1)
    assert train([cell]).run_log.curves[0][-1]["largest"] > 0
    with pytest.raises(UserError, match="derived from"):
        measure_class("bench.core.errors.UserError")


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("tensor", "data.measurements.count=1001", "an integer from 1 to 1000"),
        ("matrix", "data.target.rank=33", "an integer from 1 to 32"),
        ("tensor", "learner.loss.huber_threshold=0", "learner.loss.huber_threshold"),
        ("tubal_sensing", "data.target.mode_dims=[10,9,4]", "square slices"),
        ("matrix", "model=tubal", "three modes"),
        (
            "hierarchical",
            "model.width=2",
            "values than the target's rank",
        ),
        ("tensor", "learner.measures=[speed]", "learner.measures"),
        ("tensor", "learner.measures=[nowhere.Speed]", "learner.measures"),
        ("tensor", "learner.measures=[unobserved_entry]", "data=norms_or_rank"),
        ("matrix", "learner.measures=[growth]", "component_drives"),
        ("hierarchical", "data.target.rank=5", "a rank under 5"),
        ("tensor", "learner.measures=[tubal_angles]", "data.target.family=tubal"),
        ("tensor", "optimizer.lr=0", "optimizer.lr=0"),
        ("tensor", "optimizer._target_=torch.optim.LBFGS", "without a closure"),
        ("tensor", "optimizer.momentum=0.9", "optimizer.momentum"),
        ("tensor", "learner.patience=0", "learner.patience=0"),
        ("tensor", "trainer.spacing=cubic", "'linear' or 'logarithmic'"),
        ("tensor", "trainer.time_limit=-1", "trainer.time_limit"),
        ("tensor", "trainer.accelerator=cuba", "trainer.accelerator=cuba"),
        ("tensor", "trainer.devices=2", "on one device"),
        ("tensor", "variant=random_labels", "of a generated problem"),
    ],
)
def test_bad_input_is_named_in_one_line(name, override, message):
    overrides = [f"experiment={BENCHMARKS[name]}/quick", override]
    with pytest.raises(UserError, match=message) as caught:
        check(plan_benchmark(BENCHMARKS[name], overrides).cells, 3.0)
    assert "\n" not in str(caught.value)
