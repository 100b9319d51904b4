"""The only training loop of our own, for learners whose steps are too short for a Trainer."""

import inspect
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from torch import nn
from torch.optim import Optimizer

from bench.core.cell import Cell
from bench.core.errors import UserError, expecting, require
from bench.core.settings import Count, validate
from bench.learners.base import Hook, Learner, RunLog

# Optimizers that move each weight by its own gradient alone, and so each replicate of a stack.
ELEMENTWISE = {"SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop"}


class IntervalLearner(nn.Module, Learner):
    """Trains the cells of a stack together, by intervals: from one measurement to the next.

    These learners do not train by a Lightning Trainer. Their steps take from some tens of
    microseconds to a few milliseconds, and a Trainer adds 0.4 ms to each (Lightning 2.6 on one
    core, around steps of 0.1 ms). Besides, cells leave a stack one by one, in the middle of an
    epoch.

    Parameters
    ----------
    cells : sequence of Cell
        Cells with equal stack keys.

    Attributes
    ----------
    run_log : RunLog
        The measurements and outcomes.
    device : torch.device
        Where the module and its data are; the CPU until `start`.
    optimizer : Optimizer or None
        That of `make_optimizer`, from `start` on.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__()
        self.run_log = RunLog(cells)
        self.device = torch.device("cpu")
        self.optimizer: Any = None

    @abstractmethod
    def train_interval(self) -> None:
        """Train to the next measurement; log it, and the outcomes of the cells that have ended."""

    def make_optimizer(self) -> Optimizer | None:
        """Return an optimizer over the module's present parameters; by default none."""
        return None

    def load_data(self) -> None:
        """Move to `device` what is not a buffer; by default nothing."""

    def extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the module, optimizer and log: plain values."""
        return {}

    def adopt(self, extra: Mapping[str, Any]) -> None:
        """Take the position and the shapes that `extra_state` has kept."""

    def start(self, device: torch.device) -> None:
        """Move to a device and get ready to train."""
        self.device = device
        self.to(device)
        self.load_data()
        self.optimizer = self.make_optimizer()

    def run(self, hooks: Sequence[Hook], checkpoint: Path | None) -> None:
        """Train on the device that the cells ask for."""
        torch.use_deterministic_algorithms(True)
        self.start(device_of(self.run_log.cells[0]))
        if checkpoint is not None:
            self.restore(torch.load(checkpoint, map_location="cpu", weights_only=True))
        while self.run_log.training():
            self.train_interval()
            for hook in hooks:
                hook(self)

    def save_checkpoint(self, path: Path) -> None:
        """Write plain values and tensors from which `fit` goes on."""
        optimizer = self.optimizer and self.optimizer.state_dict()
        own = {"log": self.run_log.state_dict(), "extra": self.extra_state()}
        torch.save({"module": self.state_dict(), "optimizer": optimizer, **own}, path)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take, after `start`, the state of a checkpoint of the same cells.

        Raises
        ------
        UserError
            If it is one of other cells.
        """
        self.run_log.load_state_dict(state["log"])
        self.adopt(state["extra"])
        self.to(self.device)
        self.load_state_dict(state["module"])
        self.optimizer = self.make_optimizer()
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])


def device_of(cell: Cell) -> torch.device:
    """Return the one device that a cell's execution settings choose.

    Raises
    ------
    UserError
        If there is no such device, or if several are asked for, or more of a Trainer.
    """
    used = ("accelerator", "devices")
    others = {name: v for name, v in cell.execution.trainer.items() if name not in used}
    given = ", ".join(f"trainer.{name}={value}" for name, value in others.items())
    trainless = f"as learner={cell.learner.name} trains without a Trainer"
    require(not others, given, f"trainer.accelerator and trainer.devices alone, {trainless}")
    fabric = fabric_of(cell)
    given = f"trainer.devices={cell.execution.trainer.get('devices')}"
    hint = "with one command per device, each with CUDA_VISIBLE_DEVICES, a grid uses several"
    expected = f"1, as learner={cell.learner.name} trains on one device"
    require(fabric.world_size == 1, given, expected, hint)
    return fabric.device


def fabric_of(cell: Cell) -> Fabric:
    """Return Lightning's view of the devices that a cell's execution settings choose.

    Raises
    ------
    UserError
        If there are none such.
    """
    asked = cell.execution.trainer
    name, devices = asked.get("accelerator", "auto"), asked.get("devices", 1)
    given = f"trainer.accelerator={name} with trainer.devices={devices}"
    with expecting(given, "an accelerator of Lightning that this machine has, such as auto or cpu"):
        return Fabric(accelerator=name, devices=devices, plugins=[LightningEnvironment()])


def require_optimizers(cells: Sequence[Cell]) -> None:
    """Raise `UserError` unless the optimizers can be made; torch checks their arguments itself."""
    for optimizer in {cell.optimizer for cell in cells}:
        arguments = ", ".join(f"optimizer.{k}={v}" for k, v in optimizer.arguments.items())
        given = f"optimizer={optimizer.name} with {arguments or 'its defaults'}"
        try:
            made = optimizer([nn.Parameter(torch.zeros(2, 2))])
        except Exception as error:
            raise UserError(given, "arguments that it takes", str(error)) from error
        closure = inspect.signature(made.step).parameters["closure"]
        steps_alone = closure.default is not closure.empty
        require(steps_alone, f"optimizer={optimizer.name}", "one that steps without a closure")


def max_epochs(cell: Cell) -> int:
    """Return the bound on a cell's epochs, the one argument of a Trainer that is used here.

    Raises
    ------
    UserError
        If the cell's trainer has other arguments, which would have no effect.
    """
    given = dict(cell.trainer.arguments)
    epochs = given.pop("max_epochs", 1000)
    message = ", ".join(f"trainer.{name}={value}" for name, value in given.items())
    expected = f"max_epochs alone, as learner={cell.learner.name} trains without a Trainer"
    require(not given, message, expected)
    return validate(Count, epochs, "trainer.max_epochs")
