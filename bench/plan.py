"""From overrides to cells to stacks. Nothing here reads or writes a run, and nothing trains."""

import json
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import groupby, product
from operator import getitem
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from bench.configuration import choices, compose, launcher, parse, raw, require_benchmark
from bench.core.cell import EXECUTION_ARGUMENTS, SCIENCE, Cell
from bench.core.errors import require
from bench.core.settings import Count, Natural, Positive, alternatives, load, settings, validate

CLASSES, ALL = "data.target_class", "all"  # the axis that may stand for every class of the data
# Where things lie and run is left out of recorded commands.
LOCATIONS = ("runs_dir", "results_dir", "data.root", "execution.root", "sweep.jobs")
LOCATIONS += ("tracking.entity", "tracking.project")
OWN_FILES = ("data.file", "data.path")  # of which the last part is kept


@settings
class SweepConfig:
    """Settings of `configs/sweep/`.

    Parameters
    ----------
    max_memory : float
        Gigabytes (1e9 bytes) that one stack of cells may take.
    jobs : int
        How many processes, or jobs of a cluster, the stacks are divided among; without a cluster 1
        means this process.
    """

    max_memory: Positive = 3.0
    jobs: Count = 1


@settings
class BenchmarkConfig:
    """Settings of the key `benchmark` of the files in `configs/benchmark/`.

    Parameters
    ----------
    name : str
        The file's name.
    axes : dict
        The grid: lists of values by dotted key.
    experiment : str, optional
        The experiment that the benchmark is run with unless another one is asked for.
    cases, baselines : tuple of str
        Files in `configs/case/`: one more axis, and what is trained beside; see `plan_benchmark`.
    report : dict
        See `bench.report.report_config.ReportConfig`.
    """

    name: str
    axes: dict[str, Any] = field(default_factory=dict)
    experiment: str | None = None
    cases: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What one command asks for.

    Parameters
    ----------
    benchmark : str
        The benchmark that the runs belong to; ``"single"`` for runs of their own.
    cells : tuple of Cell
        The grid, without repetitions.
    runs_dir, results_dir : Path
        Where runs are recorded, and where tables and figures are written.
    tracking : settings
        How W&B is used.
    sweep : SweepConfig
        How much of the machine is used.
    launcher : dict
        Hydra's launcher and its settings.
    command : str
        The command that asks for the same, without places.
    config : dict
        The composed configuration, in which the axes of the grid are lists.
    """

    benchmark: str
    cells: tuple[Cell, ...]
    runs_dir: Path
    results_dir: Path
    tracking: Any
    sweep: SweepConfig
    launcher: dict[str, Any]
    command: str
    config: dict[str, Any] = field(compare=False)


def plan_benchmark(name: str, overrides: Sequence[str]) -> Plan:
    """Expand a benchmark's grid.

    An override with several values, as in ``data=mnist,fashion_mnist``, is one more axis of the
    grid; an override of an axis' key sets the axis to that value. A benchmark that lists `cases`
    has the cells of each of them. Those of its `baselines`, which are cases too, are added unless
    the command says something of the case, the model or the learner.

    Raises
    ------
    UserError
        If an override, or a combination of settings, is not valid.
    """
    require_benchmark(name)
    parsed = parse(overrides)
    lines, alone = _defaults(name, parsed)
    known_axes = _composed(lines, alone)
    swept, fixed_keys, by_name = [], [], []
    for override in parsed:
        axis = known_axes.get(override.key_or_group)
        if isinstance(axis, list) or axis == ALL:  # an axis by its name
            lines.append(f"{override.key_or_group}=[{','.join(_values(override))}]")
            by_name.append(f"${{{override.key_or_group}}}")
        elif override.is_sweep_override():
            swept.append(override)
        else:
            lines.append(_line(override))
            fixed_keys.append(override.key_or_group)
    config = _composed(lines, alone)
    described = _described(config, name)
    axes = {o.key_or_group: list(o.sweep_iterator()) for o in swept if not _chooses(o)}
    for key, values in raw(f"benchmark/{name}")["benchmark"]["axes"].items():
        twice = key in (*fixed_keys, *axes) and values in by_name
        require(not twice, f"{key} beside {str(values)[2:-1]}", "one of the two")
    named = {override.key_or_group for override in parsed} - {*described.axes}
    parts = [(() if "case" in named else described.cases, Typing(_groups_named(parsed)))]
    other_model = {key.partition(".")[0] for key in named} & {"case", "model", "learner"}
    if described.baselines and not other_model:
        # What is said of trainer or optimizer is meant for the benchmark's own model.
        parts.append((described.baselines, Typing(())))
    cells = {}
    for group, typing in parts:
        for chosen in product(*_choices(swept, group)):
            composed = _composed([*lines, *chosen], alone) if chosen else config
            for cell in _expanded(composed, axes, fixed_keys, typing):
                cells[cell.run_key] = cell
    return _of(config, list(cells.values()), lines, recorded("bench", name, *overrides))


def plan_run(overrides: Sequence[str]) -> Plan:
    """Plan one configuration: no axes, every value as composed.

    An experiment brings its benchmark along, as in ``experiment=is_same_class/quick``.
    """
    parsed = parse(overrides)
    for override in parsed:
        swept = override.is_sweep_override()
        require(not swept, _line(override), "one value", "add -m for a multirun")
        of_grid = override.key_or_group.startswith("benchmark.")
        require(not of_grid, _line(override), "no setting of a grid: one configuration is run")
    chosen = {o.key_or_group: str(o.value() or "") for o in parsed}
    of_experiment = chosen.get("experiment", "").partition("/")[0]
    benchmark = chosen.get("benchmark") or of_experiment or "single"
    lines, alone = _defaults(benchmark, parsed)
    lines += [_line(o) for o in parsed if o.key_or_group != "benchmark"]
    config = _composed(lines, alone)
    _described(config, benchmark)
    cell = Typing(_groups_named(parsed)).cell(config)
    return _of(config, [cell], lines, recorded("run", *overrides))


def _expanded(
    config: dict[str, Any], own_axes: Mapping[str, Any], fixed_keys: Sequence[str], typing: "Typing"
) -> Iterator[Cell]:
    """Yield the cells of a composed benchmark, of which the command has set some axes."""
    axes = {**config["benchmark"]["axes"], **own_axes}
    axes |= {k: [reduce(getitem, k.split("."), config)] for k in fixed_keys if k in axes}
    if axes.get(CLASSES) in (ALL, [ALL]):
        axes[CLASSES] = typing.classes(config)
    for key, values in axes.items():
        is_list = isinstance(values, list) and len(values) > 0
        require(is_list, f"the axis {key}={values}", "a list of values, such as [1,2]")
        once = all(value not in values[:index] for index, value in enumerate(values))
        require(once, f"the axis {key}={values}", "each value once")
    for point in product(*axes.values()):
        yield typing.cell(_with_values(config, dict(zip(axes, point, strict=True))))


def recorded(*words: str) -> str:
    """Return a command as records know it: without folders of this machine and W&B accounts."""
    kept = ["rankbench"]
    for word in words:
        key, _, path = word.partition("=")
        bare = key.lstrip("+")
        if bare in OWN_FILES:
            kept.append(f"{key}={Path(path).name}")
        elif bare not in LOCATIONS and not bare.startswith("hydra"):
            kept.append(word)
    return shlex.join(kept)


def defaults(benchmark: str) -> dict[str, Any]:
    """Return the configuration of a benchmark without overrides."""
    require_benchmark(benchmark)
    return _composed(*_defaults(benchmark, ()))


def _defaults(benchmark: str, parsed: Iterable[Override]) -> tuple[list[str], dict[str, Any]]:
    """Return what chooses a benchmark, and its own experiment unless another one is asked for.

    Also return the configuration of the benchmark alone.
    """
    lines = [f"benchmark={benchmark}"]
    alone = compose(lines)
    experiment = _described(alone, benchmark).experiment
    for override in parsed:
        _require_known(override, benchmark, [*alone])
    if experiment and all(o.key_or_group != "experiment" for o in parsed):
        lines.append(f"experiment={experiment}")
    return lines, alone


def _described(config: Mapping[str, Any], benchmark: str) -> BenchmarkConfig:
    """Return what a composed configuration says of its benchmark."""
    node, given = config["benchmark"], f"configs/benchmark/{benchmark}.yaml"
    named = isinstance(node, Mapping) and node.get("name") == benchmark
    require(named, given, f"benchmark.name: {benchmark}")
    described = validate(BenchmarkConfig, node, "benchmark")
    axes = bool(described.axes) or benchmark == "single"
    require(axes, given, "benchmark.axes, lists of values by key")
    return described


def _composed(lines: Sequence[str], alone: dict[str, Any]) -> dict[str, Any]:
    """Compose lines, of which the first chooses a benchmark, given what that makes alone.

    The others may set no key that the benchmark does not have, and not its report.
    """
    if len(lines) == 1:
        return alone
    config = compose(lines)
    for name in config:
        require(name in alone, f"the key {name}", *alternatives(name, [*alone]))
    own, given = (each["benchmark"] for each in (alone, config))
    expected = f"the report that configs/benchmark/{own['name']}.yaml describes"
    require(given.get("report") == own.get("report"), "another benchmark.report", expected)
    return config


def _values(override: Override) -> list[str]:
    """Return the values of an override of an axis: ``1,2``, ``range(1,3)``, ``[1,2]`` or ``1``."""
    if override.is_sweep_override():
        return list(override.sweep_string_iterator())
    text = override.get_value_element_as_str()
    return [text[1:-1] if text.startswith("[") else text]


def _chooses(override: Override) -> bool:
    """Return whether an override chooses among the files of a config group."""
    return override.key_or_group in (*SCIENCE, "experiment", "case")


def _choices(swept: Sequence[Override], cases: Sequence[str]) -> list[list[str]]:
    """Return the choices of each config group that is one more axis of the grid.

    A benchmark's own `cases` are one, unless the command names some.
    """
    axes = {o.key_or_group: list(o.sweep_string_iterator()) for o in swept if _chooses(o)}
    if cases:
        axes.setdefault("case", list(cases))
    return [[f"{group}={name}" for name in names] for group, names in axes.items()]


def _line(override: Override) -> str:
    return str(override.input_line)


def _groups_named(parsed: Iterable[Override]) -> set[str]:
    """Return the config groups that overrides speak of."""
    return {o.key_or_group.partition(".")[0] for o in parsed if o.value() is not None}


def _require_known(override: Override, benchmark: str, keys: Sequence[str]) -> None:
    """Raise `UserError` for a key that a benchmark does not have, or what belongs to another one.

    Its own are keys of the configuration that it makes, experiments and cases.
    """
    key, given = override.key_or_group, _line(override)
    group = re.split("[./@]", key)[0]
    require(group in (*keys, "experiment", "case", "hydra"), given, *alternatives(group, keys))
    second = key == "benchmark" and override.value() != benchmark
    require(not second, given, f"no second benchmark beside {benchmark}")
    if key in ("experiment", "case") and override.value():
        known = [f"{benchmark}/{name}" for name in choices(f"{key}/{benchmark}")]
        for name in _values(override):
            expected = f"one of {', '.join(known)}" if known else f"none: {benchmark} has none"
            require(name in known, f"{key}={name}", expected)


def _with_values(config: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a nested configuration with dotted keys set to new values.

    A key may be new below a config group, whose settings class knows it or refuses it.
    """
    result = deepcopy({name: config[name] for name in (*SCIENCE, "variant", "seed", "execution")})
    for key, value in values.items():
        node, group, (*parents, name) = result, key.partition(".")[0], key.split(".")
        require(group in result, f"the axis {key}", f"a key, or one below, of {', '.join(result)}")
        for parent in parents:
            node = node.setdefault(parent, {})
            require(isinstance(node, dict), f"the axis {key}", "a value inside a config group")
        node[name] = value
    return result


class Typing:
    """Turns composed configurations into cells; equal nodes become one instance.

    Parameters
    ----------
    named : collection of str
        The config groups that were asked for by name: a learner must not ignore them.
    """

    def __init__(self, named: Collection[str]) -> None:
        self.named = named
        self.loaded: dict[str, Any] = {}

    def cell(self, config: Mapping[str, Any]) -> Cell:
        """Return the cell that a composed configuration describes."""
        learner = self._load("learner", config["learner"])
        used = learner.accepts
        trainer = config["trainer"] or {}
        own = {name: v for name, v in trainer.items() if name in EXECUTION_ARGUMENTS}
        nodes = {**config, "trainer": {name: v for name, v in trainer.items() if name not in own}}
        for group in ("optimizer", "regularizer", "trainer"):
            given = f"{group}=... with learner={learner.name}"
            ignored = group in self.named and group not in used and nodes[group]
            require(not ignored, given, f"no {group}, which this learner does not use")
        groups = {group: self._load(group, nodes[group]) for group in used}
        for group, kind in learner.accepts.items():
            given = f"{group}={config[group].get('_target_')} with learner={learner.name}"
            hint = f"choose another {group} or learner"
            require(isinstance(groups[group], kind), given, f"a {kind.__name__}", hint)
        seed = validate(Natural, config["seed"], "seed")
        execution = self._load("execution", config["execution"])
        if own:
            execution = replace(execution, trainer=execution.trainer | own)
        return Cell(str(config["variant"]), seed, learner=learner, **groups, execution=execution)

    def classes(self, config: Mapping[str, Any]) -> list[int]:
        """Return every class of the data of a composed configuration."""
        data = self._load("data", config["data"])
        known = isinstance(getattr(data, "classes", None), int)
        require(known, f"{CLASSES}={ALL} with data={data.name}", "data with classes, or a list")
        return list(range(data.classes))

    def _load(self, group: str, node: Mapping[str, Any] | None) -> Any:
        if not node:  # an empty YAML file, as regularizer=none
            return None
        require(isinstance(node, Mapping), f"{group}={node}", "a choice of the config group")
        text = f"{group} {json.dumps(node, sort_keys=True)}"
        if text not in self.loaded:
            self.loaded[text] = load(node, group)
        return self.loaded[text]


def _of(config: dict[str, Any], cells: Sequence[Cell], lines: Sequence[str], command: str) -> Plan:
    runs_dir = config["runs_dir"]
    return Plan(
        benchmark=config["benchmark"]["name"],
        cells=tuple(cells),
        runs_dir=Path(runs_dir),
        results_dir=Path(config["results_dir"] or runs_dir),
        tracking=load(config["tracking"], "tracking"),
        sweep=load(config["sweep"], "sweep"),
        launcher=launcher(lines),
        command=command,
        config=config,
    )


def check(cells: Sequence[Cell], max_memory: float) -> None:
    """Raise `UserError` for what can be known to fail before any training.

    Parameters
    ----------
    cells : sequence of Cell
        The cells of a plan.
    max_memory : float
        Gigabytes that one stack may take.
    """
    for learner in dict.fromkeys(cell.learner for cell in cells):
        group = [cell for cell in cells if cell.learner == learner]
        # What is too large is not even built to be checked.
        models = {repr((cell.model, cell.data)): cell for cell in group}
        _require_room(max(map(learner.least_memory, models.values())), max_memory)
        learner.check(group)
        _require_room(max(learner.memory([cell]) for cell in group), max_memory)


def _require_room(needed: float, max_memory: float) -> None:
    given = f"sweep.max_memory={max_memory:g} GB"
    expected = f"at least {needed / 1e9:.3f} GB, what the largest cell needs"
    hint = "raise sweep.max_memory, or lower the batch size or the size of the model"
    require(needed <= max_memory * 1e9, given, expected, hint)


def stacks(cells: Sequence[Cell], max_memory: float, most: int) -> list[list[Cell]]:
    """Divide cells into stacks that can train together and fit into the memory.

    Parameters
    ----------
    cells : sequence of Cell
        What is to be trained.
    max_memory : float
        Gigabytes that one stack may take.
    most : int
        Cells of one stack at most.
    """

    def stack_key(cell: Cell) -> str:
        return cell.learner.stack_key(cell)

    divided: list[list[Cell]] = []
    for _, group in groupby(sorted(cells, key=stack_key), stack_key):
        stack: list[Cell] = []
        for cell in group:
            full = len(stack) == most or cell.learner.memory([*stack, cell]) > max_memory * 1e9
            if full or not stack:
                stack = []
                divided.append(stack)
            stack.append(cell)
    return divided
