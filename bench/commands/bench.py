"""Run a benchmark."""

import click

from bench.commands.common import config_dir, overrides, print_damaged, report
from bench.commands.training import locate, train
from bench.core.errors import require
from bench.core.files import require_writable
from bench.execute.work import Work
from bench.plan import check, plan_benchmark
from bench.report.publish import publish
from bench.report.report_config import ReportConfig
from bench.report.tables import markdown, sections
from bench.store.results import Results
from bench.store.summary import log_summary


@click.command(epilog="Example: rankbench bench tensor_rank data=mnist classes=[6] ranks=[1,2,5]")
@click.argument("name")
@overrides
@config_dir
def command(name: str, overrides: tuple[str, ...]) -> int:
    """Run all cells of a benchmark that are not recorded yet, and print its table.

    NAME is the benchmark; KEY=VALUE are Hydra overrides, such as data=mnist model.rank=3.
    """
    require("=" not in name, f"the benchmark {name}", "a name before the first override")
    plan = plan_benchmark(name, overrides)
    check(plan.cells, plan.sweep.max_memory)
    location = locate(plan)
    require_writable(plan.results_dir / name, "results_dir")
    results = Results.from_runs(plan.runs_dir, name)
    work = Work(plan.cells, location, plan.sweep, plan.launcher, results.finished())
    pending = work.pending()
    report(f"{name}: {len(work.cells)} cells, {len(pending)} to run in {len(work.stacks())} stacks")
    location.write_plan(plan.cells)
    if pending:
        train(work, len(pending))
        results = Results.from_runs(plan.runs_dir, name)
    for line in work.failures():
        report(f"rankbench: {line}")
    print_damaged(results)
    config = ReportConfig.of(name)
    print(markdown(sections(results.frame, config), config), end="")
    figure = publish(results, config, plan.results_dir / name)
    log_summary(location, figure.parent)
    print(f"\nfigure: {figure}\nruns:   {location.folder}")
    return 1 if work.missing() else 0
