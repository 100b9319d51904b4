"""What commands share: their arguments, and what they print."""

import sys
from pathlib import Path
from typing import Any

import click
import pandas as pd
from rich.console import Console
from rich.table import Table

from bench.configuration import add_folder
from bench.core.words import counted
from bench.store.results import Results

SHOWN = 5  # damaged files that are named one by one


def _add(context: click.Context, parameter: click.Parameter, folders: tuple[Path, ...]) -> None:
    for folder in folders:
        add_folder(folder)


overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")  # Hydra's
config_dir = click.option(
    "--config-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    multiple=True,
    expose_value=False,
    is_eager=True,  # other arguments may be checked against what it holds
    callback=_add,
    help="A folder with configurations, and the modules that they name, of your own.",
)


def print_frame(frame: pd.DataFrame, title: str) -> None:
    """Print a table."""
    view = Table(title=title, title_justify="left", show_lines=False)
    for column in frame:
        view.add_column(str(column), overflow="fold")
    for row in frame.to_numpy().tolist():
        view.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 200).print(view)


def report(text: Any) -> None:
    """Print a line beside the results."""
    print(text, file=sys.stderr)


def print_damaged(results: Results) -> None:
    """Name the files that could not be read, the first ones one by one."""
    for line in results.damaged[:SHOWN]:
        report(f"left out: {line}")
    if results.damaged:
        files, runs = len(results.damaged), len(results.frame)
        report(f"{counted(files, 'file')} left out, {counted(runs, 'run')} read")
