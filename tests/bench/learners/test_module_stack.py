"""Any module one-versus-all: against the obvious loop, stacked against alone, interrupted."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from bench.core.cell import Cell, Execution
from bench.core.errors import UserError
from bench.core.settings import Factory, Settings
from bench.core.status import Status
from bench.learners.one_versus_all import OneVersusAllConfig
from bench.models.arithmetic_circuit import CircuitConfig
from bench.models.resnet import ResNetConfig
from bench.models.tensor_train import TensorTrainConfig
from data_prep.digits import Digits


@dataclass(frozen=True)
class TableConfig(Settings):
    """A predictor that no replicates are carried through: a sum of embeddings."""

    name: ClassVar[str] = "table"
    stackable: bool = False
    drop: float = 0.0
    outputs: int = 1

    def predictor(self, image_shape, levels, seed):
        return Table(image_shape[0] * image_shape[1], levels, seed, self.drop, self.outputs)


class Table(nn.Module):
    def __init__(self, pixels, levels, seed, drop, outputs):
        super().__init__()
        self.levels, self.drop, self.outputs = levels, nn.Dropout(drop), outputs
        rng = torch.Generator().manual_seed(seed)
        self.table = nn.Embedding.from_pretrained(
            torch.randn(pixels * levels, 1, generator=rng) / 100, freeze=False
        )

    def forward(self, inputs):
        codes = inputs.long() + self.levels * torch.arange(inputs.shape[1])
        scores = self.drop(self.table(codes)).sum((1, 2))
        return scores if self.outputs == 1 else scores.expand(self.outputs, -1).T


def cell(model=None, seed=0, variant="original", lr=0.01, max_epochs=4, optimizer="Adam", **data):
    return Cell(
        variant,
        seed,
        data=Digits(**data),
        model=model or TensorTrainConfig(rank=2),
        learner=OneVersusAllConfig(),
        optimizer=Factory(f"torch.optim.{optimizer}", {"lr": lr}),
        trainer=Factory("pytorch_lightning.Trainer", {"max_epochs": max_epochs}),
        execution=Execution(log_every_n_epochs=2, trainer={"accelerator": "cpu"}),
    )


def grid(model=None, **settings):
    return [
        cell(model, target_class=3, **settings),
        cell(model, target_class=8, seed=1, **settings),
        cell(model, variant="random_labels", **settings),
    ]


def fitted(cells, hooks=(), checkpoint=None):
    learner = cells[0].learner.build(cells)
    learner.fit(hooks, checkpoint)
    return learner.run_log


@pytest.mark.parametrize(
    "model", [TensorTrainConfig(rank=2), CircuitConfig(width=2), TableConfig()]
)
def test_training_is_the_optimizer_on_the_squared_loss(model):
    one = cell(model, target_class=3, max_epochs=2)
    (outcome,) = fitted([one]).outcomes
    oracle = one.learner.module(one)
    optimizer = torch.optim.Adam(oracle.parameters(), lr=0.01)
    learner = one.learner.build([one])
    part = learner.data.split(None, "train")
    for indices in [indices for epoch in range(2) for indices in learner.batches(epoch)]:
        loss = (oracle(part.inputs[indices]) - 2.0 * (part.labels[indices] == 3)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = oracle.state_dict()
    assert outcome.weights.keys() == state.keys()
    for name, values in outcome.weights.items():
        torch.testing.assert_close(values, state[name], rtol=1e-3, atol=1e-5)
    error = (oracle(part.inputs) - 2.0 * (part.labels == 3)).square().mean().item() / 4
    assert outcome.metrics["train_error"] == pytest.approx(error, rel=1e-3)
    assert outcome.metrics["parameters"] == sum(p.numel() for p in oracle.parameters())


def test_replicates_train_together_as_alone():
    cells = grid()
    assert len({one.learner.stack_key(one) for one in cells}) == 1
    together = fitted(cells)
    for i, one in enumerate(cells):
        alone = fitted([one])
        for ours, theirs in zip(together.curves[i], alone.curves[0], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize(("model", "optimizer"), [(TableConfig(), "Adam"), (None, "LBFGS")])
def test_what_carries_no_replicates_is_trained_alone(model, optimizer):
    cells = grid(model, optimizer=optimizer)
    assert len({one.learner.stack_key(one) for one in cells}) == 3


def test_a_predictor_that_leaves_does_not_touch_the_others():
    cells = grid()
    learner, whole = cells[0].learner.build(cells), fitted(cells)
    with torch.no_grad():
        learner.block.module.cores[1] = torch.nan
    learner.fit([])
    log = learner.run_log
    statuses = [outcome.status for outcome in log.outcomes]
    assert statuses == [Status.MAX_STEPS, Status.DIVERGED, Status.MAX_STEPS]
    for i in (0, 2):
        for ours, theirs in zip(log.curves[i], whole.curves[i], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)


class Saving:
    """Writes a checkpoint after the first interval, and stops the training."""

    def __init__(self, path):
        self.path = path

    def __call__(self, learner):
        learner.save_checkpoint(self.path)
        raise KeyboardInterrupt


@pytest.mark.parametrize("cells", [grid(), [cell(TableConfig(drop=0.5))]], ids=["stack", "dropout"])
@pytest.mark.parametrize("broken", [False, True])
def test_a_resumed_stack_is_the_uninterrupted_one_in_every_bit(cells, broken, tmp_path):
    def learner():
        made = cells[0].learner.build(cells)
        if broken and len(cells) > 1:  # so that the checkpoint is one of fewer predictors
            made.block.module.cores.data[1] = torch.nan
        return made

    def train(hooks, checkpoint=None):
        torch.manual_seed(0)
        made = learner()
        made.fit(hooks, checkpoint)
        return made.run_log

    whole = train([])
    with pytest.raises(KeyboardInterrupt):
        train([Saving(tmp_path / "stack.ckpt")])
    torch.manual_seed(5)
    resumed = cells[0].learner.build(cells)
    resumed.fit([], tmp_path / "stack.ckpt")
    for ours, theirs in zip(resumed.run_log.outcomes, whole.outcomes, strict=True):
        assert str(ours) == str(theirs)
        for name, values in ours.weights.items():
            torch.testing.assert_close(values, theirs.weights[name], rtol=0, atol=0, equal_nan=True)


def test_the_memory_estimate_grows_with_cells_and_batches():
    memory = OneVersusAllConfig().memory
    sizes = [memory([cell()] * count) for count in (1, 2, 3)]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 96 * 16 * 4 * 4  # the chosen matrices
    assert memory([cell(batch_size=960)]) > 5 * memory([cell(batch_size=96)])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TableConfig(outputs=3), r"scores of shape \(3, 3\) and torch.float32: expected a module"),
        (TableConfig(stackable=True), "model=table with learner=one_versus_all"),
        (ResNetConfig(), None),
    ],
)
def test_a_module_that_does_not_fit_is_refused_before_training(model, message):
    if message is None:
        assert not isinstance(model, OneVersusAllConfig.accepts["model"])
        return
    one = cell(model)
    with pytest.raises(UserError, match=message):
        one.learner.check([one])


def test_an_optimizer_that_cannot_be_made_is_refused():
    one = cell()
    wrong = replace(one, optimizer=Factory("torch.optim.Adam", {"lr": -1.0}))
    with pytest.raises(UserError, match=r"optimizer.lr=-1\.0"):
        one.learner.check([wrong])
