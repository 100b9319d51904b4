"""Networks on two classes of images: training, stopping, resuming, measures."""

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import pytest
import torch
from torch import nn
from torch.nn import functional

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.core.settings import Settings
from bench.core.status import Status
from bench.learners.network_classifier import coverage, warn_if_blind
from bench.models.network import NetworkConfig
from bench.plan import plan_run
from data_prep.images import RawImages
from data_prep.same_class import SOURCES

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
    "trainer.accelerator=cpu",
    "execution.log_every_n_epochs=2",
]
REGULARIZED = [
    "regularizer=published",
    "regularizer.coefficient=0.5",
    "regularizer.every=2",
    "model.dropout=0.3",
]


@cache
def cell(*overrides):
    return plan_run([*TINY, *overrides]).cells[0]


def network_of(cell):
    return cell.learner.module(cell)


class Interrupted(Exception):
    pass


class SaveAndStop:
    def __init__(self, path):
        self.path = path

    def __call__(self, learner):
        learner.save_checkpoint(self.path)
        raise Interrupted


def fit(one, *hooks, checkpoint=None):
    learner = one.learner.build([one])
    learner.fit(hooks, checkpoint)
    return learner


def outcome_of(learner):
    return learner.run_log.outcomes[0]


def test_training_is_stochastic_gradient_descent_on_the_cross_entropy():
    one = cell("optimizer.weight_decay=0.01", "trainer.max_epochs=1")
    learner, network = fit(one), network_of(one)
    batches = list(learner.train_dataloader())
    assert torch.equal(
        torch.cat(list(learner.train_dataloader().sampler)).sort().values, torch.arange(96)
    )
    velocity = [torch.zeros_like(weights) for weights in network.parameters()]
    for images, labels in batches:
        logits = network(images)[:, 0]
        loss = functional.binary_cross_entropy(logits.sigmoid(), labels.float())
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for v, w, g in zip(velocity, network.parameters(), gradients, strict=True):
                v.mul_(0.9).add_(g + 0.01 * w)
                w.sub_(0.01 * v)
    for got, want in zip(learner.network.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_batches_depend_on_seed_and_epoch_alone():
    orders = []
    for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0)):
        one = cell(f"seed={seed}")
        sampler = one.learner.build([one]).train_dataloader().sampler
        sampler.set_epoch(epoch)
        orders.append(torch.cat(list(sampler)))
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[3])


OTHERS = ["optimizer=adamw", "trainer.gradient_clip_val=0.1", "trainer.accumulate_grad_batches=2"]


@pytest.mark.parametrize(
    "options",
    [[], REGULARIZED, OTHERS, [*REGULARIZED, "trainer.precision=64-true"]],
    ids=["plain", "regularized", "arguments of the Trainer", "float64"],
)
def test_a_resumed_run_is_the_straight_one(options, tmp_path):
    one = cell(*options)
    straight = fit(one)
    with pytest.raises(Interrupted):
        fit(one, SaveAndStop(tmp_path / "last.ckpt"))
    resumed = fit(one, checkpoint=tmp_path / "last.ckpt")
    assert resumed.run_log.curves == straight.run_log.curves
    assert outcome_of(resumed).metrics == outcome_of(straight).metrics
    for name, weights in outcome_of(straight).weights.items():
        assert torch.equal(weights, outcome_of(resumed).weights[name]), name
    assert [point["epoch"] for point in straight.run_log.curves[0]] == [2, 4]
    assert ("train_penalty" in straight.run_log.curves[0][0]) == (
        "regularizer=published" in options
    )


def test_how_often_to_measure_changes_nothing_else():
    options = ["trainer.max_epochs=3", "model.dropout=0.3"]
    ended = [fit(cell(*options, f"execution.log_every_n_epochs={every}")) for every in (1, 2, 3)]
    assert [len(learner.run_log.curves[0]) for learner in ended] == [3, 2, 1]
    for learner in ended[1:]:
        assert outcome_of(learner).metrics == outcome_of(ended[0]).metrics


def test_training_stops_after_so_many_perfect_epochs_in_a_row():
    one = cell("learner.patience=2")
    learner, statuses = one.learner.build([one]), []
    learner.log_dict = lambda metrics, sync_dist: None
    for accuracy in (0.9, 1.0, 0.99, 1.0, 1.0):
        learner.sums = torch.tensor([0.1, accuracy, 0.0])
        learner.batch_sizes = [1]
        learner.on_train_epoch_end()
        statuses.append(learner.ended().get(0))
    assert statuses == [None, None, None, None, Status.CONVERGED]


def test_a_run_that_fits_everything_ends_before_its_last_epoch():
    options = ["learner.patience=3", "trainer.max_epochs=100", "execution.log_every_n_epochs=40"]
    learner = fit(cell(*options, "data.train=16", "learner.batch_size=8", "optimizer.lr=0.05"))
    last = learner.run_log.curves[0][-1]
    assert outcome_of(learner).status is Status.CONVERGED
    assert last["train_accuracy"] == 1
    assert last["epoch"] < 100


def test_callbacks_of_lightning_stop_training():
    stop = "{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: test_accuracy"
    stop += ", mode: max, stopping_threshold: 0.0}"
    learner = fit(cell(f"trainer.callbacks=[{stop}]"))
    assert [point["epoch"] for point in learner.run_log.curves[0]] == [2]
    assert outcome_of(learner).status is Status.CONVERGED


def test_a_run_that_the_clock_stops_has_not_converged():
    learner = fit(cell("trainer.max_time='00:00:00:01'", "trainer.max_epochs=100000"))
    assert outcome_of(learner).status is Status.MAX_STEPS


def test_arguments_of_the_trainer_change_the_training():
    clipped = fit(cell("trainer.gradient_clip_val=1e-4"))
    assert outcome_of(clipped).metrics != outcome_of(fit(cell())).metrics
    double = fit(cell("trainer.precision=64-true", *REGULARIZED))
    assert {w.dtype for w in outcome_of(double).weights.values()} >= {torch.float64}


def test_an_interruption_from_the_keyboard_passes_through():
    class Interrupt:
        def __call__(self, learner):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(cell(), Interrupt())


def test_a_diverging_run_ends_as_such():
    learner = fit(cell("optimizer.lr=1e30"))
    assert outcome_of(learner).status is Status.DIVERGED
    assert "test_accuracy" not in outcome_of(learner).metrics


def test_the_measures_are_those_of_the_definitions():
    learner = fit(cell("trainer.max_epochs=2"))
    outcome, network = outcome_of(learner), learner.network.eval()
    for name in ("train", "test"):
        part = learner.parts[name]
        images, labels = part[torch.arange(len(part))]
        with torch.no_grad():
            margins = network(images)[:, 0] * (2 * labels - 1)
        expected = (margins > 0).float().mean().item()
        assert outcome.metrics[f"{name}_accuracy"] == pytest.approx(expected)
    gap = outcome.metrics["train_accuracy"] - outcome.metrics["test_accuracy"]
    assert outcome.metrics["generalization_gap"] == gap
    assert 0 <= outcome.metrics["penalty"] <= 1
    assert outcome.metrics["separation_rank_halves"] >= 1
    # The training images, 96, are measured all.
    images, labels = learner.parts["train"][torch.arange(96)]
    with torch.no_grad():
        margins = network(images)[:, 0] * (2 * labels - 1)
    assert outcome.metrics["train_margin"] == pytest.approx(margins.quantile(0.1).item(), rel=1e-5)
    point = learner.run_log.curves[0][-1]
    assert {"penalty", "locality", "train_margin"} < {*point}
    assert all(outcome.metrics[name] == point[name] for name in point if name != "train_accuracy")
    again = network_of(learner.cell)
    again.load_state_dict(outcome.weights)
    assert outcome.metrics["parameters"] == sum(each.numel() for each in again.parameters())


def test_the_regularizer_lowers_the_penalty():
    plain, regularized = (
        outcome_of(
            fit(
                cell(
                    "trainer.max_epochs=8", "regularizer=published", f"regularizer.coefficient={c}"
                )
            )
        ).metrics
        for c in (0.0, 3.0)
    )
    assert regularized["penalty"] < plain["penalty"] - 0.05


def test_a_network_that_cannot_see_both_images_is_warned_of(capsys):
    blind = cell("data.canvas=[8,64]", "data.distance=40", "model.strides=[1,1]")
    warn_if_blind(blind.model, blind.data)
    said = capsys.readouterr().err
    assert "receptive field is 8 x 19 pixels" in said
    assert "takes 8 x 56" in said
    warn_if_blind(cell().model, cell().data)
    assert capsys.readouterr().err == ""
    assert coverage(blind.model, blind.data) == ((8, 19), False)


def test_what_a_blind_network_adds_up_has_penalty_one():
    blind = cell("data.canvas=[8,64]", "data.distance=40", "model.strides=[1,1]")
    assert outcome_of(fit(blind)).metrics["penalty"] == pytest.approx(1, abs=1e-5)


def test_a_circuit_trains_too():
    overrides = [word for word in TINY if not word.startswith("model")]
    circuit = ["model=circuit", "model.width=2", "model.features=affine"]
    learner = fit(plan_run([*overrides, *circuit]).cells[0])
    assert outcome_of(learner).status is Status.MAX_STEPS


@dataclass(frozen=True)
class Foreign(Settings):
    name: ClassVar[str] = "foreign"

    def build(self, image_shape, levels, outputs, seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[0] * image_shape[1], outputs))


def test_any_settings_that_build_a_network_train():
    one = cell()
    assert isinstance(Foreign(), NetworkConfig)
    assert not isinstance(one.data, NetworkConfig)
    foreign = replace(one, model=Foreign())
    foreign.learner.check([foreign])
    assert outcome_of(fit(foreign)).metrics["parameters"] == 8 * 32 + 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["regularizer=published", "regularizer.coefficient=-1"], "greater than or equal to 0"),
        (["regularizer=published", "regularizer.every=0"], "greater than or equal to 1"),
        (["learner.batch_size=1"], "greater than or equal to 2"),
        (["learner.batch_size=19"], "single image"),
        (["optimizer.momentun=0.9"], "did you mean momentum"),
        (["data.test=62"], "at least 64"),
        (["model.channels=3"], "model.channels=3 with gray images: expected model.channels=1"),
        (["model.widths=[8]"], "as many of each"),
        (["model.stem=[8,4,2]"], "odd"),
        (["model.dropout=1"], "less than 1"),
        (["trainer.max_epochs=0"], "greater than or equal to 1"),
        (["trainer.gradient_clip=1"], "trainer.gradient_clip: expected one of"),
        (["trainer.precision=17"], "trainer.precision=17"),
        (["trainer.accelerator=cpuu"], "trainer.accelerator=cpuu"),
        (["trainer.devices=33"], "trainer.devices=33 with a batch of 32 of 96 samples"),
        (["trainer.strategy=fsdp"], "trainer.strategy=fsdp: expected auto or ddp"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2: expected 1"),
        (["execution.trainer.speed=1"], "trainer.speed=1"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_any_training(overrides, said):
    def checked():
        one = cell(*overrides)
        one.learner.check([one])

    with pytest.raises(UserError, match=said) as error:
        checked()
    assert "\n" not in str(error.value)


def test_half_of_the_training_images_are_mirrored():
    one = cell("learner.mirror=true", "model.dropout=0")
    learner, seen = one.learner.build([one]), []
    learner.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    learner.on_train_epoch_start = None
    learner.sums = torch.zeros(3)
    images = torch.rand(64, 1, 8, 32)
    learner.training_step((images, torch.zeros(64, dtype=torch.int64)), 0)
    mirrored = (seen[0] == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(mirrored, (seen[0] != images).flatten(1).any(1))
    assert 16 < mirrored.sum() < 48


@pytest.mark.parametrize("options", [[], REGULARIZED[:1]], ids=["plain", "regularized"])
def test_mixed_precision_is_near_float32(options):
    few = [*options, "trainer.max_epochs=2", "optimizer.lr=0.001"]
    full, mixed = (
        outcome_of(fit(cell(*few, f"trainer.precision={p}"))).metrics
        for p in ("32-true", "bf16-mixed")
    )
    assert mixed["train_loss"] == pytest.approx(full["train_loss"], rel=0.02)
    assert mixed != full


class Colors:
    """Random images in place of CIFAR-10."""

    def read_color(self, root, split):
        rng = generator(0, "colors", split)
        images = torch.randint(256, (40, 32, 32, 3), dtype=torch.uint8, generator=rng)
        return RawImages(images, torch.arange(40) % 4)


SCENE = "drawn_size=64 image_size=32 length=3 dash_length=3 disc_radius=3 gap=2 padding=1"
SCENE += " start_border=6 start_distance=9 distractor_dashes=3"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["experiment=is_same_class/published", "data.canvas=[32,64]"],
        ["experiment=pathfinder/published", *(f"data.scene.{word}" for word in SCENE.split())],
    ],
    ids=["is_same_class", "pathfinder"],
)
def test_the_published_experiments_train_and_resume(words, tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "cifar10", Colors)
    small = ["data.train=16", "data.test=64", "learner.batch_size=8", "trainer.max_epochs=2"]
    small += ["trainer.accelerator=cpu", f"execution.root={tmp_path}"]
    (one,) = plan_run([*words, *small]).cells
    assert one.regularizer.coefficient > 0
    straight = fit(one)
    with pytest.raises(Interrupted):
        fit(one, SaveAndStop(tmp_path / "last.ckpt"))
    resumed = fit(one, checkpoint=tmp_path / "last.ckpt")
    assert outcome_of(resumed).metrics == outcome_of(straight).metrics
    assert [point["epoch"] for point in straight.run_log.curves[0]] == [1, 2]
