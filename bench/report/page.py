"""One self-contained HTML page of all results: no server, no network, no file beside it."""

import json
import shlex
from base64 import b64encode
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from bench.config import benchmarks
from bench.errors import UserError
from bench.report import tables
from bench.report.compare import as_text, compare, compare_published
from bench.report.frame import config_columns, usable
from bench.report.spec import ReportSpec
from bench.report.verdicts import findings

MEDIA = {".svg": "image/svg+xml", ".png": "image/png"}


class Grid(NamedTuple):
    """A table of text, with what it shows and what stands below it."""

    title: str
    frame: pd.DataFrame
    notes: list[str]


def render(results_dir: Path) -> str:
    """Return the page of all results folders below a folder.

    Parameters
    ----------
    results_dir : Path
        A folder with the folders that `bench.report.publish.publish` writes, at any depth.

    Raises
    ------
    UserError
        If there is no results folder.
    """
    paths = sorted(results_dir.rglob("runs.parquet"))
    frames = {path.parent: pd.read_parquet(path) for path in paths}
    if not frames:
        mend = "run `rankbench bench tensor_rank` first, or set runs_dir or results_dir"
        raise UserError(f"{results_dir} without results", "folders with a runs.parquet", mend)
    chapters = [
        _chapter(folder, frame, results_dir)
        for folder, frame in frames.items()
        if folder.name in benchmarks()
    ]
    environment = Environment(
        loader=PackageLoader("bench.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = pd.concat([frame.reindex(columns=["created", "status"]) for frame in frames.values()])
    made = shared.created.dropna()
    return environment.get_template("page.html.jinja").render(
        chapters=chapters,
        status=shared.status.value_counts().to_dict(),
        made=(made.min(), made.max()) if len(made) else None,
        runs=_runs_as_json(frames, results_dir),
    )


def _chapter(folder: Path, frame: pd.DataFrame, results_dir: Path) -> dict[str, Any]:
    """Return what the page shows of one benchmark's results folder."""
    spec = ReportSpec.of(folder.name)
    parts = tables.sections(frame, spec)
    provenance = folder / "PROVENANCE.md"
    return {
        "name": folder.relative_to(results_dir).as_posix(),
        "title": spec.title,
        "figure": _data_uri([folder / f"figure{suffix}" for suffix in MEDIA]),
        "caption": _caption(parts, spec),
        "tables": [
            Grid(part.title, tables.cells_as_text(part, spec, "±"), tables.notes(part, spec))
            for part in parts
        ],
        "comparisons": _comparisons(frame, parts, spec, folder.name),
        "findings": findings(parts, spec),
        "provenance": provenance.read_text() if provenance.is_file() else "",
        "left_out": frame.attrs.get("damaged", []),
    }


def _data_uri(paths: list[Path]) -> str:
    """Return the smallest of some image files as a URI that holds it; empty if there is none."""
    sizes = {path.stat().st_size: path for path in paths if path.is_file()}
    if not sizes:
        return ""
    path = sizes[min(sizes)]
    return f"data:{MEDIA[path.suffix]};base64,{b64encode(path.read_bytes()).decode()}"


def _caption(parts: list[tables.Section], spec: ReportSpec) -> str:
    """Say what the panels show: settings, spread and number of runs."""
    done = sum(int(usable(part.runs).sum()) for part in parts)
    planned = sum(len(part.runs) for part in parts)
    spread = parts[0].caption.partition(";")[0]
    return f"{', '.join(part.title for part in parts)}. {spread}. {done} of {planned} runs done."


def _comparisons(
    frame: pd.DataFrame, parts: list[tables.Section], spec: ReportSpec, name: str
) -> list[Grid]:
    """Compare, within each section, the values of what the figure tells apart; then published ones.

    The metric is the first that the section's runs have.
    """
    grids = []
    for part in parts:
        measured = part.runs.dropna(axis="columns", how="all")
        metrics = [column for column in spec.metrics if column in measured]
        factors = [column for column in (spec.hue, spec.x) if part.runs[column].nunique() > 1]
        if metrics and factors:
            condition = f"{spec.section}={part.runs[spec.section].iloc[0]}"
            words = ["--by", factors[0], "--metric", metrics[0], "--where", condition]
            grids.append(_compared(compare(part.runs, spec, factors[0], metrics[0]), name, words))
    if spec.published:
        known = [one for one in spec.metrics if one in {*spec.published_values} & {*frame}]
        for metric in known[:1]:
            words = ["--reference", "published", "--metric", metric]
            grids.append(_compared(compare_published(frame, spec, metric), name, words))
    return grids


def _compared(result: pd.DataFrame, name: str, words: list[str]) -> Grid:
    """Return the comparisons that have numbers, and the count of those refused."""
    refused = result[result.refused != ""]
    notes = [
        f"{count} of {len(result)} refused: {reason}."
        for reason, count in refused.refused.value_counts().items()
    ]
    command = shlex.join(["rankbench", "compare", name, *words])
    return Grid(command, as_text(result[result.refused == ""]), notes)


def _runs_as_json(frames: dict[Path, pd.DataFrame], results_dir: Path) -> str:
    """Return the table of all runs as JSON that can stand inside a script element."""
    table = {"metrics": [], "rows": []}
    for folder, frame in frames.items():
        name = folder.relative_to(results_dir).as_posix()
        known = folder.name in benchmarks()
        listed = ReportSpec.of(folder.name).metrics if known else ["train_error", "test_error"]
        metrics = [metric for metric in listed if metric in frame]
        table["metrics"] += [metric for metric in metrics if metric not in table["metrics"]]
        places = [table["metrics"].index(metric) for metric in metrics]
        columns = [frame["data.name"], _settings(frame), frame.status, frame.wall_time_s]
        columns += [frame.wandb_path.fillna(""), frame.index]
        values = frame[metrics].astype(float).to_numpy()
        for data, setting, status, time, path, key, numbers in zip(*columns, values, strict=True):
            shown = {i: _short(v) for i, v in zip(places, numbers, strict=True) if v == v}
            table["rows"].append([name, data, setting, status, shown, _short(time), path, key])
    text = json.dumps(table, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _settings(frame: pd.DataFrame) -> list[str]:
    """Return in words what tells each run of a benchmark from the others."""
    told = [name for name in config_columns(frame) if not name.endswith(("_target_", "data.name"))]
    told = [name for name in told if frame[name].nunique(dropna=False) > 1]
    words = [
        [f"{name.rpartition('.')[2]}={value}" if value == value else "" for value in frame[name]]
        for name in told
    ]
    return [" ".join(filter(None, row)) for row in zip(*words, strict=True)] or [""] * len(frame)


def _short(value: float) -> float | str | None:
    if value != value:
        return None
    return float(f"{value:.5g}") if np.isfinite(value) else str(value)
