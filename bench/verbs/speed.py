"""The verb that measures speed."""

import argparse
from pathlib import Path

from bench.errors import require
from bench.perf import report as perf_report
from bench.tracking.records import require_writable
from bench.verbs.output import print_frame


def perf(arguments: argparse.Namespace) -> int:
    """Measure speed and print the table."""
    given = f"--rounds {arguments.rounds}"
    require(arguments.rounds >= 1, given, "an integer of at least 1")
    if arguments.out:
        require_writable(Path(arguments.out), "--out")
    measured = perf_report.measure(arguments.rounds)
    print_frame(measured, "speed")
    if arguments.out:
        command = ["rankbench", "perf", "--rounds", str(arguments.rounds)]
        perf_report.write(measured, Path(arguments.out), command)
    return 0
