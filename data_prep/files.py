"""Where data files are."""

import os
from pathlib import Path


def data_root(root: str | None) -> Path:
    """Return the data folder: `root`, else ``RANKBENCH_DATA``, else ``./data``."""
    return Path(root or os.environ.get("RANKBENCH_DATA") or "data").expanduser()
