"""What learners that Lightning's Trainer drives have in common."""

import signal
import threading
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, Timer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from bench.core.cell import Cell
from bench.core.errors import expecting, require
from bench.core.seeding import batches, derive_seed
from bench.core.settings import Count, Factory, validate
from bench.core.status import Status
from bench.learners.base import DRIVEN, Hook, Learner, RunLog
from bench.learners.data_parallel import SharedStatistics
from bench.learners.interval import fabric_of, require_optimizers

Batch = tuple[Tensor, Tensor]  # images, and what is known of them
GROUPS = DRIVEN | {"regularizer": object}  # a regularizer may be None
# What holds unless a configuration says otherwise. Records and checkpoints are the suite's own.
DEFAULTS = {
    "devices": 1,
    "deterministic": True,
    "use_distributed_sampler": False,  # each device takes its share of every batch itself
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


def is_regularized(cell: Cell) -> bool:
    """Return whether a cell's loss has a penalty."""
    return cell.regularizer is not None and cell.regularizer.coefficient > 0


class BatchOrder(Sampler[Tensor]):
    """The index tensors of an epoch's batches; Lightning calls `set_epoch`.

    Parameters
    ----------
    samples : range
        The indices of the samples.
    batch_size : int
        How many a batch has; the last one may have fewer.
    seed : int or None
        Seed of the order; None leaves the samples in their own order.
    """

    def __init__(self, samples: range, batch_size: int, seed: int | None) -> None:
        self.samples, self.batch_size, self.seed, self.epoch = samples, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.samples) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield index tensors, int64; see `bench.core.seeding.batches`."""
        for positions in batches(len(self.samples), self.batch_size, self.seed, self.epoch):
            yield positions + self.samples.start


class NetworkLearner(LightningModule, Learner):
    """A stack of cells trained by Lightning with automatic optimization.

    Lightning validates the parts in `validated` as often as its Trainer is told to; there, and
    where training ends, a measurement is made. On several devices each computes its share of every
    batch, and sums over devices are what they are on one, up to rounding; only what dropout and
    mirroring draw differs.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal stack keys.
    parts : dict of str to samples
        Those called ``"train"`` and ``"test"``: they have a length, give a whole batch when indexed
        by a tensor of shape (batch,), int64, and ``to(device)`` returns them on a device.
    batch_size : int
        Samples per step.
    order_seed : int
        Seed of the order of the batches.

    Attributes
    ----------
    network : nn.Module
        What is trained.
    run_log : RunLog
        The measurements and outcomes.
    epochs_done : int
        How many epochs are done.
    """

    validated: ClassVar[tuple[str, ...]] = ("test",)
    network: nn.Module
    sums: Tensor  # over an epoch so far: of what `penalized` gets, and of the penalty

    def __init__(
        self, cells: Sequence[Cell], parts: Mapping[str, Any], batch_size: int, order_seed: int
    ) -> None:
        super().__init__()
        self.run_log = RunLog(cells)
        self.cell = cells[0]
        self.parts = dict(parts)  # not modules: a checkpoint need not hold the images
        self.batch_size = batch_size
        self.order_seed = order_seed
        self.rank, self.devices = 0, 1
        self.batch_sizes: list[int] = []  # of an epoch, so far
        self.partial_totals: dict[str, Tensor] = {}  # of this device
        self.totals: dict[str, Tensor] = {}
        self.epochs_done = 0
        self.means = torch.tensor([torch.nan])
        self.weight, self.every, self.regularizer = 0.0, 1, None
        if is_regularized(self.cell):
            settings, patches = self.cell.regularizer, self.cell.learner.patches(self.cell.data)
            self.every, self.weight = settings.every, settings.coefficient * settings.every
            self.regularizer = settings.build(patches, self.cell.seed)

    def penalty_due(self, batch_idx: int) -> bool:
        """Return whether the step of a batch is one with the regularizer."""
        if self.regularizer is None:
            return False
        before = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        return before % self.every == 0

    def own(self, count: int) -> slice:
        """Return which of `count` samples are this device's."""
        rank, devices = self.rank, self.devices
        return slice(count * rank // devices, count * (rank + 1) // devices)

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum over the devices."""
        if self.devices == 1:
            return values
        return self.trainer.strategy.reduce(values, reduce_op="sum")  # pyright: ignore

    def evaluate(self, images: Tensor, labels: Tensor, due: bool) -> tuple[Tensor, Tensor | None]:
        """Return the network's outputs for this device's share of a batch.

        Also return what it adds to the batch's penalty, if that is due.
        """
        own = self.own(len(images))
        if self.regularizer is None or not due:
            return self.network(images[own]), None
        labels = labels.long()
        if getattr(self.regularizer, "relates_samples", False):
            return self.regularizer.evaluate(self.network, images, labels, own)
        outputs, mean = self.regularizer.evaluate(self.network, images[own], labels[own])
        return outputs, mean * ((own.stop - own.start) / len(images))

    def penalized(self, loss: Tensor, means: Tensor, penalty: Tensor | None, count: int) -> Tensor:
        """Return a batch's loss with its penalty; add this device's means to an epoch's sums.

        `loss` and `means` are means over this device's share of the `count` samples.
        """
        if not self.batch_sizes:
            dtype = torch.promote_types(means.dtype, torch.float32)
            self.sums = means.new_zeros(len(means) + 1, dtype=dtype)
        own, weight = self.own(count), self.weight * self.devices
        samples = own.stop - own.start
        # In place, as setting a module's attribute takes its time.
        self.sums[:-1].add_(means * samples)
        self.batch_sizes.append(count)
        if self.devices > 1:  # Lightning takes the mean of the devices' gradients
            loss = loss * (self.devices * samples / count)
        if penalty is None:
            return loss
        self.sums[-1].add_(penalty.detach() * self.every * count)
        return loss + weight * penalty

    @abstractmethod
    def score(self, batch: Batch, name: str) -> Tensor:
        """Return what is measured of a part called `name`, summed over a batch."""

    @abstractmethod
    def ended(self) -> dict[int, Status]:
        """Return how cells have ended by the learner's own criterion, after an epoch."""

    @abstractmethod
    def measure(self, indices: Sequence[int], statuses: Mapping[int, Status]) -> None:
        """Log a point of some cells, and the outcomes of those that have ended.

        Parameters
        ----------
        indices : sequence of int
            The cells whose curves get a point, those that have ended among them.
        statuses : mapping of int to Status
            How those that have ended did.
        """

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; what Lightning sets 44 times per step, without a module's checks."""
        if name == "_current_fx_name":
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def share_done(self) -> float:
        """Return the share of the epochs, or of the steps, that is done."""
        trainer = self.trainer
        limits = (self.epochs_done, trainer.max_epochs), (trainer.global_step, trainer.max_steps)
        return max((done / limit for done, limit in limits if limit and limit > 0), default=0.0)

    def loader(self, name: str, order_seed: int | None = None) -> DataLoader[Any]:
        """Return the batches of a part; without a seed, of this device's share, in its own order.

        Those of training are whole on each device: samples take patches from one another.
        """
        part = self.parts[name]
        samples = range(len(part))
        samples = samples[self.own(len(part))] if order_seed is None else samples
        order = BatchOrder(samples, self.batch_size, order_seed)
        # A generator of its own keeps the loader from moving on the one that dropout uses.
        return DataLoader(part, batch_size=None, sampler=order, generator=torch.Generator())

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the training batches."""
        return self.loader("train", self.order_seed)

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Return the batches of the parts that are validated."""
        return [self.loader(name) for name in self.validated]

    def setup(self, stage: str) -> None:
        """Take the precision of the weights before a checkpoint is read: Lightning does after."""
        self.trainer.precision_plugin.convert_module(self)

    def on_fit_start(self) -> None:
        """Bring the data to the device."""
        self.rank, self.devices = self.trainer.global_rank, self.trainer.world_size
        self.parts = {name: part.to(self.device) for name, part in self.parts.items()}

    def on_train_start(self) -> None:
        """End at once on a polite kill; on several devices Lightning would wait for all of them."""
        if self.devices > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.sigterm_handler)

    def on_train_epoch_start(self) -> None:
        """Let all that is random in an epoch depend on seed and epoch alone."""
        device = [self.rank] if self.rank else []
        torch.manual_seed(derive_seed(self.cell.seed, "dropout", self.current_epoch, *device))
        self.batch_sizes.clear()

    def on_train_epoch_end(self) -> None:
        """Count the epoch, and keep the means over its samples."""
        self.epochs_done = self.current_epoch + 1
        self.means = self.summed(self.sums) / sum(self.batch_sizes)

    def on_validation_epoch_start(self) -> None:
        """Begin to add up."""
        self.partial_totals = {}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add up what is measured."""
        name = self.validated[dataloader_idx]
        self.partial_totals[name] = self.partial_totals.get(name, 0) + self.score(batch, name)

    def on_validation_epoch_end(self) -> None:
        """Add up over the devices."""
        self.totals = {name: self.summed(score) for name, score in self.partial_totals.items()}

    @torch.no_grad()
    def total(self, name: str) -> Tensor:
        """Return a part's score, summed over its samples: Lightning's, if it has just validated."""
        if name not in self.totals:
            precision = self.trainer.precision_plugin
            self.network.eval()
            with precision.val_step_context():
                batches = (precision.convert_input(batch) for batch in self.loader(name))
                score = torch.as_tensor(sum(self.score(b, name) for b in batches))
            self.totals[name] = self.summed(score)
            self.network.train()
        return self.totals[name]

    def end_epoch(self) -> bool:
        """Measure if Lightning has validated or a cell has ended; return whether that is so."""
        training, statuses = self.run_log.training(), self.ended()
        if self.trainer.should_stop or self.share_done() >= 1:
            callbacks: list[Callback] = self.trainer.callbacks  # pyright: ignore
            timers = [each.time_remaining() or 0 for each in callbacks if isinstance(each, Timer)]
            stopped = self.trainer.should_stop and min(timers, default=0) >= 0
            rest = Status.CONVERGED if stopped else Status.MAX_STEPS
            statuses = dict.fromkeys(training, rest) | statuses
        if not (self.totals or statuses):
            return False
        self.measure(training if self.totals else sorted(statuses), statuses)
        self.totals = {}
        self.trainer.should_stop |= not self.run_log.training()
        return True

    def run(self, hooks: Sequence[Hook], checkpoint: Path | None) -> None:
        """Train by the Trainer that the cells ask for."""
        trainer = trainer_of(self.cell, _Measurements(hooks))
        self.sigterm_handler = signal.getsignal(signal.SIGTERM)
        try:
            trainer.fit(self, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as end:
            if trainer.interrupted and end.code == 1:  # Lightning turns Ctrl-C into a plain exit
                raise KeyboardInterrupt from None
            raise

    def save_checkpoint(self, path: Path) -> None:
        """Write all that `fit` can go on from."""
        self.trainer.strategy.broadcast(True)  # see `save_with_first`
        self.trainer.save_checkpoint(path, weights_only=False)  # optimizer and position too

    def save_with_first(self) -> None:
        """Let the other devices save whenever the first one has: Lightning does so on all."""
        strategy = self.trainer.strategy
        if self.rank == 0:
            strategy.broadcast(False)
            return
        while strategy.broadcast(False):  # what the first one says
            self.trainer.save_checkpoint("", weights_only=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep measurements and outcomes beside weights and optimizer."""
        checkpoint["run_log"] = self.run_log.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the measurements of a checkpoint of the same cells."""
        self.run_log.load_state_dict(checkpoint["run_log"])


class _Measurements(Checkpoint):
    """Has a learner measure, and tells the hooks.

    A `Checkpoint`, as those are called last: other callbacks have had their say on whether to stop,
    and a hook may save a checkpoint.
    """

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = hooks

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Call the hooks after a measurement."""
        assert isinstance(pl_module, NetworkLearner)
        if pl_module.end_epoch():
            for hook in self.hooks:
                hook(pl_module)
            pl_module.save_with_first()


def trainer_of(cell: Cell, *callbacks: Callback) -> Trainer:
    """Return the Trainer that a cell asks for.

    Raises
    ------
    UserError
        If Lightning does not know an argument or its value, or has no such accelerator.
    """
    given = {**cell.trainer.arguments, **cell.execution.trainer}
    every = cell.execution.log_every_n_epochs
    strategy = "ddp" if fabric_of(cell).world_size > 1 else "auto"
    said = ", ".join(f"trainer.{name}={value}" for name, value in given.items())
    with expecting(said, "what Lightning's Trainer takes"):
        chosen = [_callback(node) for node in given.get("callbacks") or []]
        own = {**DEFAULTS, "check_val_every_n_epoch": every, **given, "strategy": strategy}
        own["sync_batchnorm"] = False  # on several devices it always is, by `SharedStatistics`
        # Lightning starts no processes, in a SLURM job neither; see `bench.execute.replicas`.
        plugins = [LightningEnvironment(), SharedStatistics()]
        own["plugins"] = [*(given.get("plugins") or []), *plugins]
        return cell.trainer(**{**own, "callbacks": [*chosen, *callbacks]})


def _callback(node: Mapping[str, Any]) -> Callback:
    arguments = dict(node)
    return Factory(str(arguments.pop("_target_", "")), arguments)()


def check_trainers(cells: Sequence[Cell], epochs: Collection[tuple[int, int]]) -> None:
    """Raise `UserError` if a cell's optimizer or Trainer cannot be made, or would not train.

    Parameters
    ----------
    cells : sequence of Cell
        The cells.
    epochs : collection of (int, int)
        How many training samples an epoch of any of them has, and how many a batch.
    """
    require_optimizers(cells)
    for trainer, cell in {cell.trainer: cell for cell in cells}.items():
        asked = cell.execution.trainer
        for name, known in (("strategy", ("auto", "ddp")), ("num_nodes", (1,))):
            given = asked.get(name, known[0])
            require(given in known, f"trainer.{name}={given}", " or ".join(map(str, known)))
        devices = fabric_of(cell).world_size
        for samples, batch_size in epochs:
            least = samples % batch_size or batch_size
            given = f"trainer.devices={devices} with a batch of {least} of {samples} samples"
            require(devices <= least, given, "a sample of every batch for each device")
        for name in ("max_epochs", "max_steps", "accumulate_grad_batches"):
            if trainer.arguments.get(name) is not None:
                validate(Count, trainer.arguments[name], f"trainer.{name}")
        trainer_of(cell, _Measurements([]))
