"""One run of a benchmark's grid: typed once, never changed, named by the hash of its science."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bench.core.errors import require
from bench.core.settings import Count, NonNegative, as_plain, identity, settings

# The config groups that numbers depend on. A learner that does not use one leaves it None.
SCIENCE = ("data", "model", "learner", "optimizer", "regularizer", "trainer")
# Arguments of Lightning's Trainer that change where a run is computed and shown, but no number.
EXECUTION_ARGUMENTS = (
    "accelerator", "devices", "num_nodes", "strategy", "logger", "profiler", "default_root_dir",
    "enable_progress_bar", "enable_model_summary", "log_every_n_steps", "sync_batchnorm",
)  # fmt: skip
# What the names of runs for people show, and how.
LABELED = {
    "model.rank": "R",
    "model.width": "W",
    "model.init_std": "std",
    "data.target_class": "c",
    "data.distance": "d",
    "regularizer.coefficient": "reg",
}


@settings
class Execution:
    """Settings of `configs/execution/`: how a run is computed and kept, but not its numbers.

    Parameters
    ----------
    root : str, optional
        The folder of data files; see `data_prep.images.data_root`.
    workers : int, optional
        Processes that load or generate data.
    threads : int, optional
        Threads of each process; by default one. Where another program runs too, two that wait for
        each other after every operation were seven times as slow as one, in training a small
        ResNet; other processes (``sweep.jobs``) use more cores without waiting.
    checkpoint_every_s : float
        Seconds between two checkpoints.
    log_every_n_epochs : int
        Epochs between two measurements.
    trainer : dict
        The arguments of Lightning's Trainer that change no number: some of `EXECUTION_ARGUMENTS`.
    """

    root: str | None = None
    workers: Count | None = None
    threads: Count | None = None
    checkpoint_every_s: NonNegative = 60.0
    log_every_n_epochs: Count = 20
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.trainer.items():
            given, expected = f"execution.trainer.{name}={value}", ", ".join(EXECUTION_ARGUMENTS)
            hint = f"what changes numbers is set as trainer.{name}"
            require(name in EXECUTION_ARGUMENTS, given, f"one of {expected}", hint)


@dataclass(frozen=True)
class Cell:
    """One run.

    Parameters
    ----------
    variant : str
        ``"original"`` or the name of a control; see `data_prep.controls`.
    seed : int
        The seed from which every random draw of the run is derived.
    data, model, learner, optimizer, regularizer, trainer : settings or None
        What the config groups of these names say.
    execution : Execution
        How the run is computed; not part of its identity.
    """

    variant: str
    seed: int
    data: Any
    model: Any
    learner: Any
    optimizer: Any = None
    regularizer: Any = None
    trainer: Any = None
    execution: Execution = field(default_factory=Execution, compare=False)

    @cached_property
    def run_key(self) -> str:
        """The hash of what the numbers depend on, 16 hexadecimal digits.

        It covers registered names and values that are not at their default: moving a class or
        adding a field changes no key.
        """
        text = json.dumps(self._science(identity), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def label(self) -> str:
        """A short name for people, such as ``mnist original R5 c6 s0``.

        Unlike `run_key` it need not be unique.
        """
        words = [getattr(self.data, "name", ""), self.variant]
        for key, letter in LABELED.items():
            group, _, name = key.partition(".")
            value = self.config.get(group, {}).get(name)
            words += [f"{letter}{value}"] if value is not None else []
        return " ".join([*words, f"s{self.seed}"])

    @cached_property
    def config(self) -> dict[str, Any]:
        """The scientific configuration as nested plain values, with defaults: what records hold."""
        return self._science(as_plain)

    def _science(self, plain: Callable[[Any], Any]) -> dict[str, Any]:
        groups = {name: getattr(self, name) for name in SCIENCE}
        used = {name: plain(value) for name, value in groups.items() if value is not None}
        return {"variant": self.variant, "seed": self.seed, **used}
