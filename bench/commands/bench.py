"""Run a benchmark."""

import click

from bench.commands.common import config_dir, overrides, print_damaged
from bench.commands.training import benchmarked, preview, previewed
from bench.configuration import benchmarks, choices, raw
from bench.core.errors import require
from bench.plan import check, defaults, plan_benchmark
from bench.report.publish import publish
from bench.report.report_config import ReportConfig
from bench.store.summary import log_summary

EXAMPLE = "Example: rankbench bench tensor_rank data=mnist classes=6 ranks=1,2,5"


@click.command(epilog=EXAMPLE, add_help_option=False)
@click.argument("name", required=False)
@click.option("-h", "--help", "asked", is_flag=True, help="Show this message; with NAME its grid.")
@preview
@overrides
@config_dir
@click.pass_context
def command(
    context: click.Context,
    name: str | None,
    asked: bool,
    cfg: str | None,
    dry_run: bool,
    overrides: tuple[str, ...],
) -> int:
    """Run all cells of a benchmark that are not recorded yet, and print its table.

    NAME is the benchmark; without one all are listed. KEY=VALUE are Hydra overrides, such as
    data=mnist model.rank=3.
    """
    if asked or not name:
        print(_describe(name) if name else context.get_help() if asked else _list())
        return 0
    require("=" not in name, f"the benchmark {name}", "a name before the first override")
    plan = plan_benchmark(name, overrides)
    config = ReportConfig.read(plan.config["benchmark"])
    check(plan.cells, plan.sweep.max_memory)
    if previewed(plan, cfg, dry_run):
        return 0
    work, results = benchmarked(plan)
    print_damaged(results)
    figure = publish(results, config, plan.results_dir / name)
    print((figure.parent / "table.md").read_text())
    log_summary(work.location, figure.parent)
    print(f"figure: {figure}\nruns:   {work.location.folder}")
    return 1 if work.missing() else 0


def _list() -> str:
    """Return the benchmarks with their titles."""
    known = {name: ReportConfig.of(name).title for name in benchmarks()}
    width = max(map(len, known))
    return "\n".join(f"{name:{width}}  {title}" for name, title in known.items())


def _describe(name: str) -> str:
    """Return what a benchmark consists of: its axes, experiments, cases and metrics."""
    config = defaults(name)
    report_config = ReportConfig.read(config["benchmark"])
    lines = [f"rankbench bench {name}: {report_config.title}", "", "axes"]
    for key, written in raw(f"benchmark/{name}")["benchmark"]["axes"].items():
        values = config["benchmark"]["axes"][key]
        # An axis that stands in the YAML file as ${ranks} can be set under that name.
        short = written[2:-1] if isinstance(written, str) and written[:2] == "${" else key
        shown = ",".join(map(str, values)) if isinstance(values, list) else values
        lines.append(f"  {short}={shown}" + (f"  ({key})" if short != key else ""))
    for group in ("experiment", "case"):
        found = [f"  {group}={name}/{choice}" for choice in choices(f"{group}/{name}")]
        lines += [group + "s", *found] if found else []
    lines += ["metrics", f"  {', '.join(report_config.metrics)}", "settings: --cfg job"]
    return "\n".join(lines)
