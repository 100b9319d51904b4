"""What a plan will take: memory, and time by the runs that are recorded already."""

import resource
import sys
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from bench.core.cell import Cell
from bench.core.status import Status
from bench.core.words import counted
from bench.plan import Plan
from bench.store.record import read_record
from bench.store.results import flatten, readable, record_paths

# What runs may differ in that take as long as one another.
FREE = ("variant", "seed", "data.target_class", "data.fraction")


def estimated_memory(stacks: Sequence[list[Cell]]) -> str:
    """Return in words what a process takes that trains the stacks one after another.

    That is the most that any stack takes beside what this process has taken so far: Python, PyTorch
    and all other libraries, which a process that trains has loaded as well.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    libraries = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    largest = max((stack[0].learner.memory(stack) for stack in stacks), default=0)
    return f"{(libraries + largest) / 1e9:.2f} GB per process"


def estimated_time(plan: Plan) -> str:
    """Return in words how long a plan's cells will take that are not recorded yet.

    Each is expected to take the median of the benchmark's recorded runs that differ from it in
    variant, seed or class alone: their share of the time of their stack.
    """
    times, finished = defaultdict(list), set()
    for _, record in readable(read_record, record_paths(plan.runs_dir, plan.benchmark), []):
        if record.status.final:
            finished.add(record.run_key)
        if record.status in (Status.CONVERGED, Status.MAX_STEPS):
            times[_kind(record.config)].append(record.wall_time_s / record.stacked_with)
    kinds = [_kind(cell.config) for cell in plan.cells if cell.run_key not in finished]
    unknown = sum(kind not in times for kind in kinds)
    if unknown:
        return f"estimated time: unknown, as no run like {unknown} of the cells is recorded"
    seconds = sum(median(times[kind]) for kind in kinds) / plan.sweep.jobs
    return (
        f"estimated time: {seconds / 60:.1f} min for {counted(len(kinds), 'cell')} not recorded yet"
    )


def _kind(config: dict[str, Any]) -> str:
    return repr(sorted((n, str(v)) for n, v in flatten(config).items() if n not in FREE))
