"""What the verbs print."""

import sys
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table


def print_frame(frame: pd.DataFrame, title: str) -> None:
    """Print a table."""
    view = Table(title=title, title_justify="left", show_lines=False)
    for column in frame:
        view.add_column(str(column), overflow="fold")
    for row in frame.to_numpy().tolist():
        view.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 200).print(view)


def say(text: Any) -> None:
    """Print a line beside the results."""
    print(text, file=sys.stderr)
