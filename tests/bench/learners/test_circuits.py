"""Stacked training of circuits against the obvious loop, against training alone, and resumed."""

from functools import cache

import pytest
import torch

from bench.core.errors import UserError
from bench.core.status import Status
from bench.learners.circuits import Circuits, level_rates
from bench.learners.network import trainer_of
from bench.plan import plan_run

BASE = ["model=circuit", "learner=circuits", "regularizer=published", "trainer.accelerator=cpu"]


@cache
def planned(*overrides):
    return plan_run(overrides).cells[0]


def cell(**values):
    settings = {"regularizer.coefficient": 0.0}
    settings |= {key.replace("__", "."): value for key, value in values.items()}
    return planned(*BASE, *(f"{key}={value}" for key, value in settings.items()))


def all_of(cells, **values):
    """Return the same cells with other settings of the Trainer or of the execution."""
    keys = {key.replace("__", "."): value for key, value in values.items()}
    result = []
    for one in cells:
        own = {
            "variant": one.variant,
            "seed": one.seed,
            "data.target_class": one.data.target_class,
            "model.width": one.model.width,
            "model.init_std": one.model.init_std,
            "learner.objective": one.learner.objective,
            "regularizer.coefficient": one.regularizer.coefficient,
        }
        result.append(planned(*BASE, *(f"{k}={v}" for k, v in (own | keys).items())))
    return result


GRID = [
    cell(model__width=2, data__target_class=3),
    cell(model__width=2, data__target_class=8, seed=1),
    cell(model__width=2, data__target_class=0, variant="random_labels"),
]
ALL_CLASSES = [cell(learner__objective="all_classes", seed=seed) for seed in (0, 1)]
REGULARIZED = [cell(model__width=2, regularizer__coefficient=0.5)]
STACKS = {"one class": GRID, "all classes": ALL_CLASSES, "regularized": REGULARIZED}


def circuit_of(cell):
    return cell.learner.module(cell)


def learner_of(cells) -> Circuits:
    return cells[0].learner.build(cells)


def weights_after(cells, steps):
    """Train in float64 for a number of steps without a schedule; return each cell's weights."""
    constant = {"trainer__max_steps": steps, "trainer__precision": "64-true"}
    learner = fit(all_of(cells, learner__schedule="constant", **constant))
    weights = [each.detach() for each in learner.network.parameters()]
    many = len(cells) > 1
    return [[w[i] if many else w for w in weights] for i in range(len(cells))]


@pytest.mark.parametrize("cells", [GRID, ALL_CLASSES], ids=["one class", "all classes"])
def test_a_stack_trains_each_predictor_as_alone(cells):
    together = weights_after(cells, 20)
    for one, stacked in zip(cells, together, strict=True):
        (alone,) = weights_after([one], 20)
        for got, want in zip(stacked, alone, strict=True):
            assert (got - want).abs().max() < 1e-9


def test_training_is_adam_on_the_squared_loss():
    (weights,) = weights_after(GRID[:1], 20)
    learner = learner_of(GRID[:1])
    circuit = circuit_of(GRID[0]).double()
    levels = [*circuit.convolutions, circuit.root_weights]
    rates = level_rates(circuit, 0.3)
    optimizer = torch.optim.Adam(
        [{"params": [w], "lr": rate} for w, rate in zip(levels, rates, strict=True)]
    )
    train, batches = GRID[0].data.split(None, "train"), []
    for epoch in range(2):
        sampler = learner.train_dataloader().sampler
        sampler.set_epoch(epoch)
        batches += list(sampler)
    for indices in batches[:20]:
        wanted = 2.0 * (train.labels[indices] == 3)
        loss = (circuit(train.inputs[indices]) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for got, want in zip(weights, circuit.parameters(), strict=True):
        torch.testing.assert_close(got, want.detach(), rtol=1e-7, atol=1e-9)


def errors_of(cells, name):
    learner = learner_of(cells)
    learner.trainer = trainer_of(cells[0])
    return learner.total(name) / len(learner.parts[name])


def test_errors_are_those_of_the_definitions():
    train = GRID[0].data.split(None, "train")
    outputs = circuit_of(GRID[0])(train.inputs)
    expected = (outputs - 2.0 * (train.labels == 3)).square().mean() / 4
    assert errors_of(GRID, "train")[0].item() == pytest.approx(expected.item(), rel=1e-5)
    test = ALL_CLASSES[1].data.split(None, "test")
    expected = (circuit_of(ALL_CLASSES[1])(test.inputs).argmax(1) != test.labels).float().mean()
    assert errors_of(ALL_CLASSES, "test")[1].item() == pytest.approx(expected.item())


def test_the_size_of_a_step_is_that_of_the_outputs_logarithm():
    """All leaves moved alike by their step size change the logarithm by the learning rate."""
    circuit = circuit_of(cell(model__init_std=0.0, model__width=3))
    images = torch.zeros(1, 8, 8, dtype=torch.uint8)
    levels = [*circuit.convolutions, circuit.root_weights]
    for weights, rate in zip(levels, level_rates(circuit, 1e-2), strict=True):
        before = circuit(images).log().item()
        with torch.no_grad():
            weights.add_(rate)
        change = circuit(images).log().item() - before
        with torch.no_grad():
            weights.sub_(rate)
        nodes = weights.shape[0] if weights.ndim == 3 else 64
        assert change == pytest.approx(1e-2 * nodes / 64, rel=1e-2)


def fit(cells, *hooks, checkpoint=None, spoil=None):
    learner = learner_of(cells)
    if spoil is not None:
        with torch.no_grad():
            learner.network.root_weights[spoil] = torch.nan
    learner.fit(hooks, checkpoint)
    return learner


class Interrupted(Exception):
    pass


class SaveAndStop:
    def __init__(self, path):
        self.path = path

    def __call__(self, learner):
        learner.save_checkpoint(self.path)
        raise Interrupted


@pytest.mark.parametrize("cells", STACKS.values(), ids=STACKS.keys())
def test_a_resumed_run_is_the_straight_one(cells, tmp_path):
    cells = all_of(cells, trainer__max_epochs=4, execution__log_every_n_epochs=2)
    straight, path = fit(cells), tmp_path / "last.ckpt"
    with pytest.raises(Interrupted):
        fit(cells, SaveAndStop(path))
    resumed = fit(cells, checkpoint=path)
    assert resumed.run_log.curves == straight.run_log.curves
    for got, want in zip(resumed.run_log.outcomes, straight.run_log.outcomes, strict=True):
        assert got.metrics == want.metrics
        assert all(torch.equal(got.weights[name], want.weights[name]) for name in want.weights)


def test_a_predictor_that_diverges_leaves_the_others_alone():
    cells = all_of(GRID, trainer__max_epochs=2, execution__log_every_n_epochs=2)
    learner, whole = fit(cells, spoil=1).run_log, fit(cells).run_log
    statuses = [outcome.status for outcome in learner.outcomes]
    assert statuses == [Status.MAX_STEPS, Status.DIVERGED, Status.MAX_STEPS]
    for i in (0, 2):
        assert learner.curves[i] == whole.curves[i]
        assert learner.outcomes[i].metrics == pytest.approx(whole.outcomes[i].metrics, rel=1e-3)


def test_outcomes_hold_the_measures_and_the_weights_behind_them():
    learner = fit(all_of(GRID, trainer__max_epochs=2, execution__log_every_n_epochs=1))
    log = learner.run_log
    for i, (one, outcome, curve) in enumerate(zip(GRID, log.outcomes, log.curves, strict=True)):
        assert [point["epoch"] for point in curve] == [1, 2]
        assert 1 <= outcome.metrics["separation_rank_halves"] <= 32
        assert outcome.metrics["locality"] > 0
        assert 1 <= outcome.metrics["hierarchical_rank"] <= 2
        circuit = circuit_of(one)
        circuit.load_state_dict(outcome.weights)
        part = learner.parts["train"]
        wanted = 2.0 * (part.problem_labels(slice(None))[i] == one.data.target_class)
        error = (circuit(part.inputs) - wanted).square().mean() / 4
        assert outcome.metrics["train_error"] == pytest.approx(error.item(), rel=1e-4)


def test_the_penalty_turns_the_training():
    start = {"model__width": 4, "model__init_std": 2.0}
    with_penalty = weights_after([cell(regularizer__coefficient=0.5, **start)], 3)
    without = weights_after([cell(**start)], 3)
    assert (with_penalty[0][0] - without[0][0]).abs().max() > 1e-4


def test_a_cp_tree_has_as_many_parameters_as_the_grid():
    for width in (1, 4, 8):
        grid, cp = (circuit_of(cell(model__width=width, model__tree=t)) for t in ("grid", "cp"))
        assert len(cp.tree.levels) == 1
        assert abs(cp.parameter_count - grid.parameter_count) <= 65


def test_cells_are_not_stacked_where_they_would_not_train_as_alone():
    def key(**values):
        one = cell(**values)
        return one.learner.stack_key(one)

    assert key(seed=1) == key(seed=2)
    for values in (
        {"regularizer__coefficient": 1.0},
        {"trainer__gradient_clip_val": 1.0},
        {"optimizer": "group_rmsprop"},
    ):
        assert key(seed=1, **values) != key(seed=2, **values)


def test_the_schedule_rises_and_falls_to_zero():
    one = cell(model__width=2, trainer__max_epochs=20)
    rates = []

    class Look:
        def __call__(self, learner):
            rates.append(learner.trainer.optimizers[0].param_groups[0]["lr"])

    (one,) = all_of([one], trainer__max_epochs=20, execution__log_every_n_epochs=5)
    fit([one], Look())
    steps = 20 * 15
    expected = [0.3 / 64 * (1 - n / steps) * min(1.0, (n + 1) / 100) for n in (75, 150, 225, 300)]
    assert rates == pytest.approx(expected)


def check(**values):
    one = cell(**values)
    one.learner.check([one])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learner__objective": "all_classes", "data__target_class": 3}, "data.target_class=3"),
        ({"regularizer__coefficient": 1.0, "learner__patch_size": 9}, "learner.patch_size=9"),
        ({"regularizer__coefficient": 1.0, "learner__patch_distance": 3}, "patch_distance=3"),
        ({"regularizer__coefficient": 1.0, "data__batch_size": 1}, "data.batch_size=1"),
        ({"regularizer__coefficient": 1.0, "data__batch_size": 4}, "single one of 1437"),
        ({"regularizer__coefficient": -1.0}, "regularizer.coefficient=-1.0"),
        ({"learner__schedule": "cosine"}, "constant' or 'linear"),
        ({"model__tree": "oak"}, "model.tree='oak'"),
        ({"model__width": 0}, "model.width=0"),
        ({"variant": "random"}, "variant=random"),
        ({"optimizer__lr": -1}, "optimizer.lr=-1"),
    ],
)
def test_bad_input_is_one_line_before_any_training(values, said):
    with pytest.raises(UserError, match=said) as error:
        check(**values)
    assert "\n" not in str(error.value)
