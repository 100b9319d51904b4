"""A benchmark: expand the grid, drop what is recorded, stack what can train together, run."""

import hashlib
import json
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from bench.callbacks import checkpointed
from bench.config import (
    CONFIG_DIR,
    SCIENTIFIC_GROUPS,
    Cell,
    choices,
    compose,
    get_value,
    launcher_of,
    plain,
    require_benchmark,
    results_folder,
    scientific,
    typed,
    with_values,
)
from bench.errors import UserError, require
from bench.learners.base import LearnerConfig, TrainerConfig
from bench.run import Settings, stack_folder
from bench.tracking import records
from bench.tracking.claims import last_attempt
from bench.tracking.place import Place


@dataclass
class SweepConfig:
    """Schema of `configs/sweep/`.

    Parameters
    ----------
    max_memory : float
        Gigabytes (1e9 bytes) that one stack of predictors may take.
    jobs : int
        How many processes, or jobs of a cluster, the stacks are divided among; without a cluster 1
        means this process.
    """

    max_memory: float = 3.0
    jobs: int = 1

    def __post_init__(self) -> None:
        ok = 0 < self.max_memory < math.inf
        require(ok, f"sweep.max_memory={self.max_memory}", "a number of gigabytes above 0")
        require(self.jobs >= 1, f"sweep.jobs={self.jobs}", "an integer of at least 1")


@dataclass
class Sweep:
    """A grid of cells, checked and ready to run.

    Parameters
    ----------
    settings : Settings
        Where and how they are run.
    cells : list of Cell
        The grid, without repetitions.
    max_memory : float
        Bytes that one stack may take.
    results_dir : Path
        Where tables and figures are written.
    jobs : int
        How many processes or jobs of a cluster train at once.
    launcher : dict
        Hydra's launcher and its settings.
    """

    settings: Settings
    cells: list[Cell]
    max_memory: float
    results_dir: Path
    jobs: int
    launcher: dict[str, Any]
    errors: dict[str, str] = field(default_factory=dict, init=False)  # of this call, by run key

    def __post_init__(self) -> None:
        self.tried = {c.run_key: last_attempt(self.folder / c.run_key) for c in self.missing()}

    @property
    def folder(self) -> Path:
        """The folder of the benchmark's runs."""
        return self.settings.place.folder

    def missing(self) -> list[Cell]:
        """Return the cells that have no final record."""
        done = recorded(self.cells, self.settings)
        return [cell for cell in self.cells if cell.run_key not in done]

    def pending(self) -> list[Cell]:
        """Return the missing cells that have not failed in this call, here or elsewhere."""
        return [cell for cell in self.missing() if not self._error(cell)]

    def _error(self, cell: Cell) -> str | None:
        attempt, error = records.failure(self.folder / cell.run_key)
        elsewhere = error if attempt > self.tried[cell.run_key] else None
        return self.errors.get(cell.run_key) or elsewhere

    def failures(self) -> list[str]:
        """Return why cells are missing, a line for each reason."""
        reasons = Counter(self._error(c) or "their process is gone" for c in self.missing())
        return [f"{n} runs failed and will be retried: {why}" for why, n in reasons.items()]

    def write_plan(self, command: str) -> None:
        """Keep the command and its cells, so that a table can count those that are missing."""
        cells = {cell.run_key: cell.config for cell in self.cells}
        plan = {"command": command, "cells": cells}
        name = hashlib.sha256("".join(sorted(cells)).encode()).hexdigest()[:16]
        path = self.folder / records.PLANS / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        records.write_atomically(path, json.dumps(plan).encode())

    def after(self, stack: list[Cell], error: Exception) -> list[list[Cell]]:
        """Return what to train in place of a stack that failed.

        If the error may be that of one cell, as when the memory does not suffice, that is the
        halves of the stack, so that in the end it is that cell's alone.
        """
        missing = {cell.run_key for cell in self.missing()}
        rest = [cell for cell in stack if cell.run_key in missing]
        if len(rest) > 1 and not isinstance(error, OSError | UserError):
            shutil.rmtree(stack_folder(self.settings.place, stack), ignore_errors=True)
            return [rest[len(rest) // 2 :], rest[: len(rest) // 2]]
        message = " ".join(f"{type(error).__name__}: {error}".split())
        self.errors |= {cell.run_key: message for cell in rest}
        return []

    def stacks(self) -> list[list[Cell]]:
        """Divide the pending cells into stacks, one a job at least where there are enough.

        Those with a checkpoint come first, as they were.
        """
        pending = {cell.run_key: cell for cell in self.pending()}
        known = {cell.run_key: cell for cell in self.cells}
        stacks = []
        for keys in checkpointed(self.folder):
            if all(key in known for key in keys) and any(key in pending for key in keys):
                stacks.append([known[key] for key in keys])
                for key in keys:
                    pending.pop(key, None)

        def stack_key(cell: Cell) -> str:
            return typed(cell.config["learner"], "learner").stack_key(cell)

        most = math.ceil(len(pending) / self.jobs)
        for _, group in groupby(sorted(pending.values(), key=stack_key), stack_key):
            stacks += self._within_memory(list(group), most)
        return stacks

    def _within_memory(self, cells: list[Cell], most: int) -> Iterator[list[Cell]]:
        """Divide cells that can train together into stacks that fit into the memory."""
        learner: LearnerConfig = typed(cells[0].config["learner"], "learner")
        stack: list[Cell] = []
        for cell in cells:
            full = len(stack) == most or learner.memory([*stack, cell]) > self.max_memory
            if stack and full:
                yield stack
                stack = []
            stack.append(cell)
        yield stack


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides in Hydra's syntax; new keys may only be added inside the config groups."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        message = str(error).splitlines()[0]
        raise UserError(
            " ".join(overrides), f"Hydra's override syntax, key=value ({message})"
        ) from error
    for override in parsed:
        stray = override.is_add() and "." not in override.key_or_group
        allowed = "the keys that exist, which are set without a +"
        require(not stray, str(override.input_line), allowed)
    return parsed


def prepare(benchmark: str, overrides: Sequence[str]) -> Sweep:
    """Expand a benchmark's grid and check every cell, before any training.

    An override with several values, as in ``data=mnist,fashion_mnist``, is one more axis of the
    grid; an override of an axis' key sets the axis to that value. A benchmark made of several
    experiments, listed in `benchmark.experiments`, has the cells of all of them.
    """
    require_benchmark(benchmark)
    parsed = parse_overrides(_with_preset(benchmark, overrides))
    named = [str(o.input_line) for o in parsed if o.key_or_group == "benchmark"]
    require(not named, " ".join(named), f"one benchmark, and {benchmark} is named already")
    report = [str(o.input_line) for o in parsed if o.key_or_group.startswith("benchmark.report")]
    require(
        not report, " ".join(report), f"the report that configs/benchmark/{benchmark}.yaml says"
    )
    fixed = [o for o in parsed if not o.is_sweep_override()]
    swept = [o for o in parsed if o.is_sweep_override()]
    groups = [o for o in swept if o.key_or_group in (*SCIENTIFIC_GROUPS, "experiment")]
    own_axes = {o.key_or_group: list(o.sweep_iterator()) for o in swept if o not in groups}
    cells: dict[str, Cell] = {}
    config: dict[str, Any] = {}
    lines = [str(o.input_line) for o in fixed]
    named = [[f"{o.key_or_group}={name}" for name in o.sweep_string_iterator()] for o in groups]
    if not any(o.key_or_group == "experiment" for o in parsed):
        named += filter(None, [_experiments(benchmark, lines)])
    for chosen in product(*named):
        config = plain(compose([f"benchmark={benchmark}", *lines, *chosen]))
        axes = {**config["benchmark"]["axes"], **own_axes}
        axes |= {
            o.key_or_group: [get_value(config, o.key_or_group)]
            for o in fixed
            if o.key_or_group in axes
        }
        for values in grid(axes):
            cell = Cell.of(scientific(with_values(config, values)))
            cells[cell.run_key] = cell
    settings, memory = settings_of(config), memory_of(config)
    check(list(cells.values()), settings, memory)
    results = results_folder(config)
    records.require_writable(results / benchmark, "results_dir")
    jobs = typed(config["sweep"], "sweep").jobs
    hydra_lines = [line for line in lines if line.startswith("hydra")]
    return Sweep(settings, list(cells.values()), memory, results, jobs, launcher_of(hydra_lines))


def _experiments(benchmark: str, lines: list[str]) -> list[str]:
    """Return the choices of `experiment` that make up a benchmark; most have none."""
    config = plain(compose([f"benchmark={benchmark}", *lines]))
    return [f"experiment={name}" for name in config["benchmark"].get("experiments", [])]


def _with_preset(benchmark: str, overrides: Sequence[str]) -> list[str]:
    """Read ``preset=quick`` as the choice among the presets of this benchmark."""
    group = f"preset/{benchmark}"
    result = []
    for override in overrides:
        name = override.removeprefix("preset=")
        if name == override:
            result.append(override)
            continue
        presets = choices(group)
        require(bool(presets), override, "no preset: this benchmark has none")
        require(name in presets, override, ", ".join(presets))
        result.append(f"{group}={name}")
    return result


def grid(axes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the points of a grid given by the values of its axes."""
    for key, values in axes.items():
        is_list = isinstance(values, list) and len(values) > 0
        require(is_list, f"the axis {key}={values}", "a list of values, such as [1,2]")
    for point in product(*axes.values()):
        yield dict(zip(axes, point, strict=True))


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return what a configuration says about where and how to run."""
    trainer: TrainerConfig = typed(config["trainer"], "trainer")
    return Settings(Place.of(config), trainer, config["data"].get("root"))


def memory_of(config: Mapping[str, Any]) -> float:
    """Return the bytes that one stack may take."""
    return typed(config["sweep"], "sweep").max_memory * 1e9


def check(cells: Sequence[Cell], settings: Settings, max_memory: float) -> None:
    """Raise `UserError` for what can be known to fail before any training."""
    learners: dict[str, list[Cell]] = {}
    for cell in cells:
        learners.setdefault(json.dumps(cell.config["learner"]), []).append(cell)
    for group in learners.values():
        learner: LearnerConfig = typed(group[0].config["learner"], "learner")
        for name, kind in learner.accepts.items():
            for other in {id(o): o for o in (typed(c.config[name], name) for c in group)}.values():
                given = f"{name} of type {type(other).__name__} with {type(learner).__name__}"
                mend = f"choose another {name} or learner"
                require(isinstance(other, kind), given, f"a {name} of type {kind.__name__}", mend)
        learner.check(group, settings.root)
        needed = max(learner.memory([cell]) for cell in group)
        require(
            needed <= max_memory,
            f"sweep.max_memory={max_memory / 1e9:g} GB",
            f"at least {needed / 1e9:.3f} GB, what the largest predictor needs",
            "raise sweep.max_memory, or lower data.batch_size or the size of the model",
        )
    records.require_writable(settings.place.folder)


def combinations(overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """Return the override lists of the single runs that a Hydra multirun makes of `overrides`."""
    parsed = parse_overrides(overrides)
    swept = [o for o in parsed if o.is_sweep_override()]
    if swept and not multirun:
        given = str(swept[0].input_line)
        raise UserError(f"{given} with several values", "one value", "add -m for a multirun")
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    names = [[f"{o.get_key_element()}={v}" for v in o.sweep_string_iterator()] for o in swept]
    return [[*fixed, *chosen] for chosen in product(*names)]


def hydra_multirun(overrides: Sequence[str], task: Callable[[dict[str, Any]], int]) -> int:
    """Run every combination through Hydra's sweeper and launcher; return the worst exit code."""
    codes = [0]

    @hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="config")
    def job(config: DictConfig) -> None:
        codes.append(task(plain(config)))

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach the command line, which prints them
    argv, sys.argv = sys.argv, ["rankbench", "-m", *overrides]
    try:
        job()
    finally:
        sys.argv = argv
    return max(codes)


def recorded(cells: Sequence[Cell], settings: Settings) -> set[str]:
    """Return the keys of the cells that have a final record."""
    return records.finished_keys_among(settings.place.folder, (cell.run_key for cell in cells))
