"""Stacked training of circuits against the obvious loop, against training alone, and resumed."""

import pytest
import pytorch_lightning as lightning
import torch

from bench.config import Cell, compose, plain, scientific, typed, with_values
from bench.errors import UserError
from bench.learners.base import EpochsConfig
from bench.learners.circuits import Circuits, circuit_of, level_rates
from bench.status import Status
from data_prep.one_versus_all import PixelStack

CONFIG = scientific(plain(compose(["model=circuit", "learner=circuits"])))


def cell(**values):
    return Cell.of(with_values(CONFIG, {key.replace("__", "."): v for key, v in values.items()}))


GRID = [
    cell(model__width=2, data__target_class=3),
    cell(model__width=2, data__target_class=8, seed=1),
    cell(model__width=2, data__target_class=0, variant="random_labels"),
]
ALL_CLASSES = [cell(learner__objective="all_classes", seed=seed) for seed in (0, 1)]
REGULARIZED = [cell(model__width=2, learner__coefficient=0.5)]
STACKS = {"one class": GRID, "all classes": ALL_CLASSES, "regularized": REGULARIZED}


def learner_of(cells, dtype=torch.float32, **trainer) -> tuple[Circuits, PixelStack]:
    config = typed(cells[0].config["learner"], "learner")
    learner, data = config.build(cells, EpochsConfig(**trainer), None)
    learner.to(dtype)
    learner.parts = data.parts
    return learner, data


def weights_after(cells, steps, dtype=torch.float64):
    learner, data = learner_of(cells, dtype)
    optimizer = learner.configure_optimizers()
    batches = [indices for epoch in range(10) for indices in data.batches(epoch)]
    for indices in batches[:steps]:
        learner.train_step(indices, optimizer)
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
    _, data = learner_of(GRID[:1])
    circuit = circuit_of(GRID[0]).double()
    levels = [*circuit.convolutions, circuit.root_weights]
    rates = level_rates(circuit, 0.3)
    optimizer = torch.optim.Adam(
        [{"params": [w], "lr": rate} for w, rate in zip(levels, rates, strict=True)]
    )
    train = data.data.split(None, "train")
    batches = [indices for epoch in range(2) for indices in data.batches(epoch)]
    for indices in batches[:20]:
        wanted = 2.0 * (train.labels[indices] == 3)
        loss = (circuit(train.inputs[indices]) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for got, want in zip(weights, circuit.parameters(), strict=True):
        torch.testing.assert_close(got, want.detach(), rtol=1e-7, atol=1e-9)


def test_errors_are_those_of_the_definitions():
    learner, data = learner_of(GRID)
    train = data.data.split(None, "train")
    outputs = torch.stack([circuit_of(one)(train.inputs) for one in GRID])
    expected = (outputs[0] - 2.0 * (train.labels == 3)).square().mean() / 4
    assert learner.errors("train")[0].item() == pytest.approx(expected.item(), rel=1e-5)
    learner, data = learner_of(ALL_CLASSES)
    outputs = circuit_of(ALL_CLASSES[1])(data.data.split(None, "test").inputs)
    expected = (outputs.argmax(1) != data.data.split(None, "test").labels).float().mean()
    assert learner.errors("test")[1].item() == pytest.approx(expected.item())


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


def trainer():
    return lightning.Trainer(
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def fit(cells, **settings):
    learner, data = learner_of(cells, **settings)
    trainer().fit(learner, datamodule=data)
    return learner


class Interrupted(Exception):
    pass


class SaveAndStop(lightning.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)
        raise Interrupted


@pytest.mark.parametrize("cells", STACKS.values(), ids=STACKS.keys())
def test_a_resumed_run_is_the_straight_one(cells, tmp_path):
    settings = {"max_epochs": 4, "log_every_n_epochs": 2}
    straight = fit(cells, **settings)
    learner, data = learner_of(cells, **settings)
    path = tmp_path / "last.ckpt"
    first = trainer()
    first.callbacks.append(SaveAndStop(path))  # pyright: ignore
    with pytest.raises(Interrupted):
        first.fit(learner, datamodule=data)
    learner, data = learner_of(cells, **settings)
    trainer().fit(learner, datamodule=data, ckpt_path=path, weights_only=True)
    assert learner.curves == straight.curves
    for got, want in zip(learner.outcomes, straight.outcomes, strict=True):
        assert got.metrics == want.metrics
        assert all(torch.equal(got.weights[name], want.weights[name]) for name in want.weights)


def test_a_predictor_that_diverges_leaves_the_others_alone():
    learner, data = learner_of(GRID, max_epochs=2, log_every_n_epochs=2)
    with torch.no_grad():
        learner.network.root_weights[1] = torch.nan
    trainer().fit(learner, datamodule=data)
    whole = fit(GRID, max_epochs=2, log_every_n_epochs=2)
    statuses = [outcome.status for outcome in learner.outcomes]
    assert statuses == [Status.MAX_STEPS, Status.DIVERGED, Status.MAX_STEPS]
    for i in (0, 2):
        assert learner.curves[i] == whole.curves[i]
        assert learner.outcomes[i].metrics == pytest.approx(whole.outcomes[i].metrics, rel=1e-3)


def test_outcomes_hold_the_measures_and_the_weights_behind_them():
    learner = fit(GRID, max_epochs=2, log_every_n_epochs=1)
    for one, outcome, curve in zip(GRID, learner.outcomes, learner.curves, strict=True):
        assert [point["epoch"] for point in curve] == [1, 2]
        assert 1 <= outcome.metrics["separation_rank_halves"] <= 32
        assert outcome.metrics["locality"] > 0
        assert 1 <= outcome.metrics["hierarchical_rank"] <= 2
        circuit = circuit_of(one)
        circuit.load_state_dict(outcome.weights)
        part = learner.data.data.split(None, "train")
        labels = learner.data.parts["train"].problem_labels(slice(None))[GRID.index(one)]
        wanted = 2.0 * (labels == one.config["data"]["target_class"])
        error = (circuit(part.inputs) - wanted).square().mean() / 4
        assert outcome.metrics["train_error"] == pytest.approx(error.item(), rel=1e-4)


def test_the_penalty_turns_the_training():
    start = {"model__width": 4, "model__init_std": 2.0}
    with_penalty = weights_after([cell(learner__coefficient=0.5, **start)], 3)
    without = weights_after([cell(**start)], 3)
    assert (with_penalty[0][0] - without[0][0]).abs().max() > 1e-4


def test_a_cp_tree_has_as_many_parameters_as_the_grid():
    for width in (1, 4, 8):
        grid, cp = (circuit_of(cell(model__width=width, model__tree=t)) for t in ("grid", "cp"))
        assert len(cp.tree.levels) == 1
        assert abs(cp.parameter_count - grid.parameter_count) <= 65


def check(**values):
    one = cell(**values)
    typed(one.config["model"], "model")
    typed(one.config["learner"], "learner").check([one], None)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learner__objective": "all_classes", "data__target_class": 3}, "data.target_class=3"),
        ({"learner__coefficient": 1.0, "learner__patch_size": 9}, "learner.patch_size=9"),
        ({"learner__coefficient": 1.0, "learner__patch_distance": 3}, "patch_distance=3"),
        ({"learner__coefficient": 1.0, "data__batch_size": 1}, "data.batch_size=1"),
        ({"learner__coefficient": 1.0, "data__batch_size": 4}, "single one of 1437"),
        ({"learner__coefficient": -1.0}, "learner.coefficient=-1.0"),
        ({"learner__schedule": "cosine"}, "constant or linear"),
        ({"model__tree": "oak"}, "model.tree=oak"),
        ({"model__width": 0}, "model.width=0"),
        ({"variant": "random"}, "variant=random"),
    ],
)
def test_bad_input_is_one_line_before_any_training(values, said):
    with pytest.raises(UserError, match=said) as error:
        check(**values)
    assert "\n" not in str(error.value)
