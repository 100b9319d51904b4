"""Writing a benchmark's results folder: tables, figure, runs and where they come from."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from hydra.utils import get_method

from bench.config import choices
from bench.report import figures, tables
from bench.report.frame import MISSING, load_runs, require_runs, usable
from bench.report.spec import ReportSpec
from bench.tracking.records import (
    PLANS,
    RECORD_FILE,
    read_record,
    record_paths,
    require_writable,
    write_atomically,
)


def publish(benchmark: str, runs_dir: Path, results_dir: Path) -> Path:
    """Write all results of a benchmark from its recorded runs alone.

    Parameters
    ----------
    benchmark : str
        The benchmark's name.
    runs_dir : Path
        The folder of all runs.
    results_dir : Path
        The folder of all results; files go to ``results_dir / benchmark``.

    Returns
    -------
    Path
        The figure as PNG. Beside it: `figure.svg`, `table.md`, `table.csv`, `table.tex`,
        `runs.parquet` (the frame of `bench.report.load_runs`) and `PROVENANCE.md`.
    """
    spec = ReportSpec.of(benchmark)
    frame = require_runs(load_runs(runs_dir, benchmark), benchmark)
    parts = tables.sections(frame, spec)
    folder = results_dir / benchmark
    require_writable(folder, "results_dir")
    texts = {
        "table.md": tables.markdown(parts, spec),
        "table.csv": tables.csv(parts, spec),
        "table.tex": tables.latex(parts, spec),
        "PROVENANCE.md": provenance(frame, runs_dir, benchmark),
    }
    frame.to_parquet(folder / "runs.parquet")
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
    ended = [part for part in parts if usable(part.runs).any()]
    draw = get_method(spec.draw) if ended else figures.draw_nothing
    return figures.save(draw(ended, spec, frame, runs_dir), folder)


def publish_all(runs_dir: Path, results_dir: Path, say: Callable[[str], None]) -> list[str]:
    """Publish every benchmark that has recorded runs; return what went wrong, a line each.

    A figure that cannot be drawn yet, as in the middle of a sweep, keeps no other from being drawn.
    Runs that belong to no benchmark, as those of `rankbench run`, are kept as `runs.parquet` alone.
    """
    errors = []
    known = choices("benchmark")
    for name in sorted({path.parts[-3] for path in record_paths(runs_dir)}):
        say(f"{name} ...")
        if name not in known:
            errors.append(f"{name}: left out, for there is no such benchmark")
        elif name == "single":
            (results_dir / name).mkdir()
            load_runs(runs_dir, name).to_parquet(results_dir / name / "runs.parquet")
        else:
            try:
                publish(name, runs_dir, results_dir)
            except Exception as error:
                told = " ".join(str(error).split())
                errors.append(f"{name}: not drawn ({type(error).__name__}: {told})")
    for error in errors:
        say(error)
    return errors


def provenance(frame: pd.DataFrame, runs_dir: Path, benchmark: str) -> str:
    """Say which commands, commits, versions and machines made the runs, and how long they took."""
    recorded = frame[frame.status != MISSING]
    records = [read_record(runs_dir / benchmark / str(key) / RECORD_FILE) for key in recorded.index]
    plans = (runs_dir / benchmark / PLANS).glob("*.json")
    commands = sorted({json.loads(plan.read_bytes())["command"] for plan in plans})
    commits = {f"{r['git']['commit']}{' (changed)' * bool(r['git']['dirty'])}" for r in records}
    # Each run of a stack records the time of the whole stack.
    hours = sum(r["wall_time_s"] / r["stacked_with"] for r in records) / 3600
    facts = {
        "Command": commands,
        "Commit": sorted(commits),
        "Versions": _distinct([r["versions"] for r in records]),
        "Hardware": _distinct([r["host"] for r in records]),
        "Made": [f"{recorded.created.min()} to {recorded.created.max()} (UTC)"],
        "Training time": [f"{hours:.2f} hours in all"],
        "Runs": [f"{n} {status}" for status, n in frame.status.value_counts().items()],
    }
    lines = [f"# Where the results of {benchmark} come from"]
    for name, values in facts.items():
        lines.append(f"\n**{name}**\n")
        lines += [
            f"- `{value}`" if name in ("Command", "Commit") else f"- {value}" for value in values
        ]
    return "\n".join(lines) + "\n"


def _distinct(dicts: list[dict]) -> list[str]:
    return sorted({", ".join(f"{name} {value}" for name, value in one.items()) for one in dicts})
