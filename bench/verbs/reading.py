"""The verbs that print what is recorded; they need neither PyTorch nor W&B."""

import argparse
from pathlib import Path

import pandas as pd

from bench.config import compose, plain, require_benchmark
from bench.errors import UserError, require
from bench.report import tables
from bench.report.frame import load_published, load_runs, require_runs
from bench.report.spec import ReportSpec
from bench.verbs.output import print_frame, say


def table(arguments: argparse.Namespace) -> int:
    """Print a benchmark's table."""
    print_table(arguments.name, _place(arguments), arguments.format, arguments.source)
    return 0


def print_table(name: str, place: Path, form: str = "markdown", source: str = "records") -> None:
    """Print a benchmark's table from a folder of runs or of results."""
    frame, spec = _loaded(name, place, source)
    print(getattr(tables, form)(tables.sections(frame, spec), spec), end="")


def compare(arguments: argparse.Namespace) -> int:
    """Print paired comparisons."""
    from bench.report import compare  # scipy.stats takes as long as all that a table needs

    allowed = "--by with a factor, as --by variant, or --reference published"
    named = arguments.by or arguments.reference == "published"
    require(bool(named), "`rankbench compare` without --by", allowed)
    # `--where` takes all words that follow it, so an override may be among them.
    places = ("runs_dir=", "results_dir=")
    conditions = [word for word in arguments.where if not word.startswith(places)]
    arguments.overrides += [word for word in arguments.where if word not in conditions]
    frame, spec = _loaded(arguments.name, _place(arguments), arguments.source)
    chosen = compare.where(frame, conditions)
    factor, metric, reference = arguments.by, arguments.metric, arguments.reference
    if reference == "published":
        result = compare.compare_published(chosen, spec, metric, factor)
        pairs = "Pairs: a run and the published value"
    else:
        result = compare.compare(chosen, spec, factor, metric, reference)
        pairs = f"Pairs over {' and '.join(spec.label(name) for name in spec.over)}"
    print_frame(compare.as_text(result), f"{metric} by {factor or 'row'}")
    print(
        f"{pairs}. Difference: mean with"
        " t interval. Ratio: mean of the reference over mean of the other, bootstrap interval."
        " p: paired t test, Benjamini-Hochberg corrected."
    )
    return 1 if (result.refused != "").all() else 0


def runs(arguments: argparse.Namespace) -> int:
    """List the recorded runs; with --verify, hold each record against its W&B file."""
    runs_dir = Path(plain(compose(arguments.overrides))["runs_dir"])
    frame = load_runs(runs_dir)
    _say_damaged(frame)
    if frame.empty:
        raise UserError(f"runs_dir={runs_dir} without records", "a folder with recorded runs")
    keys = [name for name in ("benchmark", "data.name", "variant") if name in frame]
    counts = frame.groupby([*keys, "status"]).size().unstack(fill_value=0).reset_index()
    print_frame(counts.astype(str), f"{len(frame)} runs in {runs_dir}")
    problems = []
    if arguments.verify:
        from bench.tracking.verify import verify_records  # needs W&B

        problems = verify_records(runs_dir)
        print("".join(f"{problem}\n" for problem in problems), end="")
        print(f"{len(frame)} runs verified, {len(problems)} problems")
    return 1 if problems or frame.attrs["damaged"] else 0


def _place(arguments: argparse.Namespace) -> Path:
    """Return the folder that the runs are read from."""
    config = plain(compose(arguments.overrides))
    return (
        Path(config["results_dir"] or "results")
        if arguments.source == "results"
        else Path(config["runs_dir"])
    )


def _loaded(name: str, place: Path, source: str) -> tuple[pd.DataFrame, ReportSpec]:
    require_benchmark(name)
    spec = ReportSpec.of(name)
    if source == "wandb":
        from bench.report.wandb_frame import load_wandb_runs  # needs W&B

        frame = load_wandb_runs(place, name)
    else:
        frame = (load_published if source == "results" else load_runs)(place, name)
    _say_damaged(frame)
    return require_runs(frame, name), spec


def _say_damaged(frame: pd.DataFrame) -> None:
    damaged = frame.attrs["damaged"]
    for line in damaged:
        say(f"left out: {line}")
    if damaged:
        say(f"{len(damaged)} files left out, {len(frame)} runs read")
