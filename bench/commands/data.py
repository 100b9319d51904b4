"""Get, verify and show data sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from bench.commands.common import config_dir, print_frame, report
from bench.configuration import choices, compose
from bench.core.errors import UserError, require
from bench.core.settings import load
from data_prep.files import data_root
from data_prep.images import ImageData
from data_prep.labeled_images import LabeledImages


@click.command(epilog="Example: rankbench data mnist data.root=data")
@click.argument("words", nargs=-1, metavar="[NAME]... [KEY=VALUE]...")
@click.option("--show", is_flag=True, help="Draw samples into results_dir.")
@config_dir
def command(words: tuple[str, ...], show: bool) -> None:
    """Get or find, verify and describe data sets.

    Those asked for by NAME are downloaded or generated if they are missing; without a NAME all are
    listed. KEY=VALUE are Hydra overrides.
    """
    overrides = [word for word in words if "=" in word]
    asked = [word for word in words if "=" not in word]
    own = {name: overrides if name in asked or not asked else [] for name in choices("data")}
    sets = {name: found for name, words in own.items() if (found := _read(name, words))}
    for name in asked:
        require(name in sets, f"the data set {name}", f"one of {', '.join(sets)}")
    chosen = [sets[name] for name in asked or sets]
    rows = [_describe(data, config, download=bool(asked)) for data, config in chosen]
    print_frame(pd.DataFrame(rows), "data sets")
    for data, config in chosen if show else []:
        from bench.report import samples  # Matplotlib

        folder = Path(config["results_dir"] or config["runs_dir"])
        root = config["execution"].get("root")
        print(samples.write(data, root, folder / f"{data.name}_samples.png"))


def _read(name: str, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]] | None:
    """Return the settings of a data set and their configuration; None of data without images."""
    config = compose([f"data={name}", *overrides])
    data = load(config["data"], "data")
    return (data, config) if isinstance(data, ImageData | LabeledImages) else None


def _describe(
    data: ImageData | LabeledImages, config: dict[str, Any], *, download: bool
) -> dict[str, str]:
    if isinstance(data, LabeledImages):
        counts, classes = (data.train, data.test), 2
    else:
        counts, classes = data.counts.values(), data.classes
    row = {
        "name": data.name,
        "train + test": " + ".join(f"{count:,}" for count in counts),
        "size": f"{' x '.join(map(str, data.image_shape))}, {classes} classes",
    }
    root = config["execution"].get("root")
    try:
        files = data.files(root, download=download)
    except UserError as error:
        if download:
            raise
        report(f"{data.name}: {error}")
        return row | {"state": "missing or damaged", "root": "-", "SHA-256": "-"}
    checksums = "\n".join(f"{path.name} {digest[:16]}..." for path, digest in files)
    location = str(data_root(root)) if files else "inside a dependency"
    return row | {"state": "verified", "root": location, "SHA-256": checksums or "-"}
