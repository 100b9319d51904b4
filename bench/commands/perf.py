"""Measure speed."""

from pathlib import Path

import click

from bench.commands.common import print_frame
from bench.core.files import require_writable


@click.command(epilog="Example: rankbench perf --rounds 5 --out results/perf")
@click.option(
    "--rounds", type=click.IntRange(1), default=5, help="How often each case is measured."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder for table.md, measurements.csv and PROVENANCE.md.",
)
def command(rounds: int, out: Path | None) -> None:
    """Measure training speed against the published formulation and this machine's peak."""
    from bench.perf import report  # PyTorch, and all that is measured

    if out:
        require_writable(out, "--out")
    measured = report.measure(rounds)
    print_frame(measured, "speed")
    if out:
        report.write(measured, out, f"rankbench perf --rounds {rounds}")
