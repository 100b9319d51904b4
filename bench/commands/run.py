"""Run single configurations."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import click

from bench.commands.common import config_dir, overrides, report
from bench.commands.training import locate, preview, previewed, train
from bench.configuration import parse
from bench.core.errors import require
from bench.execute.work import Work
from bench.plan import Plan, check, plan_run, recorded
from bench.store.record import RECORD_FILE, read_record


@click.command(epilog="Example: rankbench run model.rank=3 variant=random_labels")
@click.option("-m", "--multirun", is_flag=True, help="Run every combination of several values.")
@preview
@overrides
@config_dir
def command(multirun: bool, cfg: str | None, dry_run: bool, overrides: tuple[str, ...]) -> int:
    """Run one configuration, or with -m every combination of comma-separated values.

    KEY=VALUE are Hydra overrides, such as data=mnist model.rank=3.
    """
    plan = _plan_all(overrides) if multirun else plan_run(overrides)
    check(plan.cells, plan.sweep.max_memory)
    if previewed(plan, cfg, dry_run):
        return 0
    location = locate(plan, len(plan.cells))
    work = Work(plan.cells, location, plan.sweep, plan.launcher)
    pending = work.pending()
    if pending:
        train(work, len(pending))
    for line in work.failures():
        report(f"rankbench: {line}")
    missing = work.missing()
    for key in work.cells:
        folder = location.folder / key
        if key not in missing:
            record = read_record(folder / RECORD_FILE)
            numbers = [
                f"{name} {'nan' if value is None else format(value, '.6g')}"
                for name, value in record.metrics.items()
            ]
            print(f"{record.status}  {'  '.join(numbers)}")
        known = "" if key in pending else "already recorded, "
        print(f"{known}run: {folder}")
    return 1 if missing else 0


def _plan_all(overrides: Sequence[str]) -> Plan:
    """Plan every combination of the overrides' values."""
    choices = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [str(o.input_line)]
        for o in parse(overrides)
    ]
    plans = [plan_run(chosen) for chosen in product(*choices)]
    cells = {cell.run_key: cell for plan in plans for cell in plan.cells}
    command = recorded("run", "-m", *overrides)
    whole = replace(plans[0], cells=tuple(cells.values()), command=command)
    for plan in plans:
        alike = replace(plan, cells=whole.cells, command=command) == whole
        require(alike, " ".join(overrides), "one benchmark, runs_dir, sweep and launcher")
    return whole
