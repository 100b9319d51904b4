"""Writing a benchmark's results folder: tables, figure, runs and where they come from."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
from matplotlib.figure import Figure

from bench.core.files import require_writable, write_atomically
from bench.core.settings import resolve
from bench.report import figures, tables
from bench.report.claims import outcomes
from bench.report.report_config import ReportConfig
from bench.store.results import CURVES_FILE, MISSING, Results, require_runs, usable

LARGEST_CURVES = 1e6  # bytes; beyond, only the curves that the figure shows are kept, as float32


def publish(results: Results, config: ReportConfig, folder: Path) -> Path:
    """Write all results of a benchmark: every file, or none if something is wrong.

    Parameters
    ----------
    results : Results
        The benchmark's runs.
    config : ReportConfig
        What to write.
    folder : Path
        The folder, which is made if missing.

    Returns
    -------
    Path
        The figure as PNG. Beside it: `figure.svg`, `table.md`, `table.csv`, `table.tex`,
        `runs.parquet`, `curves.parquet` and `PROVENANCE.md`.

    Raises
    ------
    UserError
        If nothing is recorded, or the folder cannot be written.
    """
    frame = require_runs(results.frame, folder.name)
    require_writable(folder.parent, "results_dir")
    parts = tables.sections(frame, config)
    said = outcomes(parts, config, results.curves)
    texts = {
        "table.md": tables.markdown(parts, config, said),
        "table.csv": tables.csv(parts, config),
        "table.tex": tables.latex(parts, config, said),
        "PROVENANCE.md": provenance(frame, folder.name),
    }
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        fresh = Path(temporary)
        for name, text in texts.items():
            (fresh / name).write_text(text)
        figures.save(plotted(parts, config, results), fresh)
        _write_runs(results, config, fresh)
        folder.mkdir(exist_ok=True)
        for path in sorted(fresh.iterdir()):
            write_atomically(folder / path.name, path.read_bytes())
        if not (fresh / CURVES_FILE).exists():
            (folder / CURVES_FILE).unlink(missing_ok=True)  # of runs that were here before
    return folder / "figure.png"


def plotted(parts: list[tables.Section], config: ReportConfig, results: Results) -> Figure:
    """Return the benchmark's figure of the sections that have runs with numbers."""
    ended = [part for part in parts if usable(part.runs).any()]
    plot = resolve(config.plot, "benchmark.report.plot") if ended else figures.plot_nothing
    return plot(ended, config, results)


def _write_runs(results: Results, config: ReportConfig, folder: Path) -> None:
    """Write the runs and their curves; of many curves, those that the figure shows."""
    results.write(folder)
    path = folder / CURVES_FILE
    if path.exists() and path.stat().st_size > LARGEST_CURVES:
        path.unlink()
        shown = [name for name in results.curves if str(name).startswith(config.curves)]
        curves = results.curves[["run_key", *shown]] if shown else results.curves.iloc[:0]
        replace(results, curves=curves.astype(dict.fromkeys(shown, "float32"))).write(folder)


def provenance(frame: pd.DataFrame, benchmark: str) -> str:
    """Say which commands, commits, versions and machines made the runs, and how long they took.

    Parameters
    ----------
    frame : DataFrame
        Runs with the columns `commit`, `dirty`, `command`, `versions` and `host`.
    benchmark : str
        Their benchmark.
    """
    recorded = frame[frame.status != MISSING]
    changed = recorded.dirty.map({True: " (changed)"}).fillna("")
    # Each run of a stack records the time of the whole stack.
    hours = (recorded.wall_time_s / recorded.stacked_with).sum() / 3600
    facts = {
        "Command": _distinct(frame.command),
        "Commit": _distinct(recorded.commit.astype("string") + changed),
        "Versions": _distinct(recorded.versions),
        "Hardware": _distinct(recorded.host),
        "Made": [f"{recorded.created.min()} to {recorded.created.max()} (UTC)"],
        "Training time": [f"{hours:.2f} hours in all"],
        "Runs": [f"{n} {status}" for status, n in frame.status.value_counts().items()],
    }
    lines = [f"# Where the results of {benchmark} come from"]
    for name, values in facts.items():
        quote = "`" if name in ("Command", "Commit") else ""
        listed = [f"- {quote}{value}{quote}" for value in values] or ["- not recorded"]
        lines += [f"\n**{name}**\n", *listed]
    return "\n".join(lines) + "\n"


def _distinct(texts: pd.Series) -> list[str]:
    return sorted({str(text) for text in texts.dropna()})
