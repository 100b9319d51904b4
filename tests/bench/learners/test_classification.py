"""Networks on two classes of images: training, stopping, resuming, measures."""

import json

import pytest
import pytorch_lightning as lightning
import torch
from torch import nn
from torch.nn import functional

from bench.config import Cell, compose, plain, scientific, typed
from bench.errors import UserError
from bench.learners.classification import coverage, network_of, warn_if_blind
from bench.status import Status

TINY = [
    "data=is_same_class",
    "data.images=digits",
    "data.image_size=8",
    "data.canvas=[8,32]",
    "data.train=96",
    "data.test=70",
    "model=compact_resnet",
    "model.stem=[4,3,2]",
    "model.widths=[8,8]",
    "model.strides=[2,2]",
    "learner=classification",
    "learner.batch_size=32",
    "trainer.max_epochs=4",
    "trainer.log_every_n_epochs=2",
]
REGULARIZED = ["learner.coefficient=0.5", "model.dropout=0.3", "learner.regularize_every=2"]


def cell(*overrides):
    return Cell.of(scientific(plain(compose([*TINY, *overrides]))))


def learner_of(one):
    config = typed(one.config["learner"], "learner")
    trainer = typed(
        {"log_every_n_epochs": 2, "accelerator": "cpu", **one.config["trainer"]}, "trainer"
    )
    return config.build([one], trainer, None)


class Interrupted(Exception):
    pass


class SaveAndStop(lightning.Callback):
    def __init__(self, path):
        self.path = path

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)
        raise Interrupted


def fit(one, *callbacks, checkpoint=None):
    learner, data = learner_of(one)
    trainer = lightning.Trainer(
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(learner, datamodule=data, ckpt_path=checkpoint)
    return learner


def test_training_is_stochastic_gradient_descent_on_the_cross_entropy():
    one = cell("learner.weight_decay=0.01", "trainer.max_epochs=1")
    learner = fit(one)
    reference, network = learner_of(one)[0], network_of(one)
    part, orders = reference.parts["train"], []
    reference.train_step = lambda indices, optimizer, step: orders.append(indices) or torch.zeros(3)
    reference.train_epoch(0, None)
    assert torch.equal(torch.cat(orders).sort().values, torch.arange(96))
    velocity = [torch.zeros_like(each) for each in network.parameters()]
    for indices in orders:
        logits = network(part(indices))[:, 0]
        loss = functional.binary_cross_entropy(logits.sigmoid(), part.labels[indices].float())
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for v, w, g in zip(velocity, network.parameters(), gradients, strict=True):
                v.mul_(0.9).add_(g + 0.01 * w)
                w.sub_(0.01 * v)
    for got, want in zip(learner.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [[], REGULARIZED], ids=["plain", "regularized"])
def test_a_resumed_run_is_the_straight_one(options, tmp_path):
    one = cell(*options)
    straight = fit(one)
    with pytest.raises(Interrupted):
        fit(one, SaveAndStop(tmp_path / "last.ckpt"))
    resumed = fit(one, checkpoint=tmp_path / "last.ckpt")
    assert resumed.curves == straight.curves
    assert resumed.outcomes[0].metrics == straight.outcomes[0].metrics
    for name, weights in straight.outcomes[0].weights.items():
        assert torch.equal(weights, resumed.outcomes[0].weights[name]), name
    assert [point["epoch"] for point in straight.curves[0]] == [2, 4]
    assert ("train_penalty" in straight.curves[0][0]) == bool(options)


def test_how_often_to_measure_changes_nothing_else():
    ended = []
    for every in (1, 3):
        learner, _ = learner_of(cell("trainer.max_epochs=3"))
        learner.limits.log_every_n_epochs = every
        optimizer = learner.configure_optimizers()
        learner.optimizers = lambda use_pl_optimizer, optimizer=optimizer: optimizer
        learner._trainer = type("Stop", (), {"should_stop": False})()
        while learner.outcomes[0] is None:
            learner.training_step(None, 0)
        ended.append(learner.outcomes[0])
    assert ended[0].metrics == ended[1].metrics


def test_training_stops_so_many_epochs_after_the_first_perfect_one():
    learner, _ = learner_of(cell("learner.patience=3", "trainer.max_epochs=50"))
    accuracies, statuses = [0.9, 1.0, 0.99, 1.0, 1.0], []
    for accuracy in accuracies:
        learner.epoch += 1
        statuses.append(learner._status({"train_loss": 0.1, "train_accuracy": accuracy}))
    assert statuses == [None, None, None, None, Status.CONVERGED]
    assert learner._status({"train_loss": float("nan"), "train_accuracy": 0.0}) is Status.DIVERGED


def test_a_diverging_run_ends_as_such():
    learner = fit(cell("learner.learning_rate=1e30"))
    assert learner.outcomes[0].status is Status.DIVERGED
    assert "test_accuracy" not in learner.outcomes[0].metrics


def test_the_measures_are_those_of_the_definitions():
    learner = fit(cell("trainer.max_epochs=2"))
    outcome, network = learner.outcomes[0], learner.network.eval()
    for name in ("train", "test"):
        part = learner.parts[name]
        with torch.no_grad():
            decided = network(part(torch.arange(len(part))))[:, 0] > 0
        expected = (decided == part.labels).float().mean().item()
        assert outcome.metrics[f"{name}_accuracy"] == pytest.approx(expected)
    gap = outcome.metrics["train_accuracy"] - outcome.metrics["test_accuracy"]
    assert outcome.metrics["generalization_gap"] == gap
    assert 0 <= outcome.metrics["penalty"] <= 1
    assert outcome.metrics["separation_rank_halves"] >= 1
    again = network_of(learner.cells[0])
    again.load_state_dict(outcome.weights)
    assert outcome.metrics["parameters"] == sum(each.numel() for each in again.parameters())


def test_the_regularizer_lowers_the_penalty():
    plain, regularized = (
        fit(cell("trainer.max_epochs=8", f"learner.coefficient={c}")).outcomes[0].metrics
        for c in (0.0, 3.0)
    )
    assert regularized["penalty"] < plain["penalty"] - 0.05


def test_a_network_that_cannot_see_both_images_is_warned_of(capsys):
    blind = cell("data.canvas=[8,64]", "data.distance=40", "model.strides=[1,1]")
    warn_if_blind(blind)
    said = capsys.readouterr().err
    assert "receptive field is 8 x 19 pixels" in said
    assert "takes 8 x 56" in said
    warn_if_blind(cell())
    assert capsys.readouterr().err == ""
    config = {"model": blind.config["model"], "data": blind.config["data"], "seed": 0}
    assert coverage(json.dumps(config)) == ([8, 19], False)


def test_what_a_blind_network_adds_up_has_penalty_one():
    blind = cell("data.canvas=[8,64]", "data.distance=40", "model.strides=[1,1]")
    assert fit(blind).outcomes[0].metrics["penalty"] == pytest.approx(1, abs=1e-5)


def test_a_circuit_trains_too():
    overrides = [word for word in TINY if not word.startswith("model")]
    circuit = ["model=circuit", "model.width=2", "model.features=affine"]
    one = Cell.of(scientific(plain(compose([*overrides, *circuit]))))
    learner = fit(one)
    assert learner.outcomes[0].status is Status.MAX_STEPS
    assert isinstance(learner.network, nn.Module)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("learner.coefficient=-1", "at least 0"),
        ("learner.batch_size=1", "at least 2"),
        ("learner.batch_size=19", "single image"),
        ("learner.momentum=1", "below 1"),
        ("learner.regularize_every=0", "at least 1"),
        ("data.test=62", "at least 64"),
        ("model.widths=[8]", "as many of each"),
        ("model.stem=[8,4,2]", "odd"),
        ("model.dropout=1", "below 1"),
    ],
)
def test_bad_input_is_refused_before_any_training(override, said):
    def checked():
        one = cell(override)
        typed(one.config["learner"], "learner").check([one], None)

    with pytest.raises(UserError, match=said):
        checked()
