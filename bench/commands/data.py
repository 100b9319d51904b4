"""Get, verify and show data sets."""

from pathlib import Path

import click
import pandas as pd

from bench.commands.common import config_dir, print_frame, report
from bench.configuration import choices, compose, parse
from bench.core.errors import UserError, require
from bench.core.files import require_writable
from bench.core.settings import load
from data_prep.images import ImageData, data_root
from data_prep.labeled_images import LabeledImages
from data_prep.own_data import OwnData

SETTINGS = ("data", "execution", "runs_dir", "results_dir")
COLUMNS = ["name", "train + test", "size", "state", "root", "SHA-256"]


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
    known = choices("data")
    for override in parse(overrides):
        group = override.key_or_group.partition(".")[0]
        fits = group in SETTINGS and override.key_or_group != "data"
        expected = f"a name such as digits, and settings in {', '.join(SETTINGS)}"
        require(fits, str(override.input_line), expected)
    for name in asked:
        require(name in known, f"the data set {name}", f"one of {', '.join(known)}")
    chosen, rows = [], []
    config = compose(overrides)
    folder = Path(config["results_dir"] or config["runs_dir"])
    root = load(config["execution"], "execution").root
    if show:
        require_writable(folder, "results_dir")
    for name in asked or known:
        try:
            data = load(compose([f"data={name}", *overrides])["data"], "data")
        except UserError as error:  # data of the user's own, which are not given
            if asked:
                raise
            rows.append({"name": f"data={name}", "state": f"yours: {error.arguments[2]}"})
            continue
        pictures = isinstance(data, ImageData | LabeledImages)
        require(pictures or not asked, f"the data set {name}", "a data set of images or arrays")
        if pictures:
            rows.append(_describe(data, root, download=bool(asked)))
            if rows[-1]["state"] == "verified":
                chosen.append(data)
    print_frame(pd.DataFrame([dict.fromkeys(COLUMNS, "-") | row for row in rows]), "data sets")
    for data in chosen if show else []:
        from bench.report import samples  # Matplotlib

        print(samples.write(data, root, folder / f"{data.name}_samples.png"))


def _describe(
    data: ImageData | LabeledImages, root: str | None, *, download: bool
) -> dict[str, str]:
    if isinstance(data, LabeledImages):
        counts, classes = (data.train, data.test), 2
    else:
        counts, classes = data.counts.values(), data.classes
    samples = " + ".join(f"{count:,}" for count in counts)
    size = f"{' x '.join(map(str, data.image_shape))}, {classes} classes"
    row = {"name": data.name, "train + test": samples, "size": size}
    try:
        files = data.files(root, download=download)
    except UserError as error:
        if download:
            raise
        report(f"{data.name}: {error}")
        return row | {"state": "missing or damaged"}
    if not files:
        return row | {"state": "verified", "root": "inside a dependency"}
    checksums = "\n".join(f"{path.name} {digest[:16]}..." for path, digest in files)
    location = data.location.parent if isinstance(data, OwnData) else data_root(root)
    return row | {"state": "verified", "root": str(location), "SHA-256": checksums}
