"""The verb that gets, verifies and shows data sets."""

import argparse
from typing import Any

import pandas as pd

from bench.config import choices, compose, plain, results_folder, typed
from bench.errors import UserError, require
from bench.report import samples
from bench.verbs.output import print_frame, say
from data_prep.images import ImageData
from data_prep.labelled_images import LabelledImages
from data_prep.torchvision_images import data_root

IMAGES = (ImageData, LabelledImages)  # the other data are drawn in memory


def data(arguments: argparse.Namespace) -> int:
    """Describe data sets; those asked for by name are downloaded or drawn if they are missing."""
    overrides = arguments.overrides + [word for word in arguments.names if "=" in word]
    asked = [word for word in arguments.names if "=" not in word]
    known = [name for name in choices("data") if isinstance(_images(_with_data(name)), IMAGES)]
    for name in asked:
        require(name in known, f"the data set {name}", ", ".join(known))
    configs = [_with_data(name, *overrides) for name in asked or known]
    for images in map(_images, configs):
        shown = isinstance(images, LabelledImages) or not arguments.show
        require(shown, f"--show with {images.name}", "a task of two classes, by its name")
    rows = [
        _describe(_images(config), config["data"]["root"], download=bool(asked))
        for config in configs
    ]
    print_frame(pd.DataFrame(rows), "data sets")
    for config in configs if arguments.show else []:
        images, folder = _images(config), results_folder(config)
        print(samples.write(images, config["data"]["root"], folder / f"{images.name}_samples.png"))
    return 0


def _with_data(name: str, *overrides: str) -> dict[str, Any]:
    return plain(compose([f"data={name}", *overrides]))


def _images(config: dict[str, Any]) -> Any:
    return typed(config["data"], "data")


def _describe(
    images: ImageData | LabelledImages, root: str | None, *, download: bool
) -> dict[str, str]:
    if isinstance(images, LabelledImages):
        counts, shape, classes = (images.train, images.test), images.image_shape, 2
    else:
        counts, shape, classes = images.COUNTS.values(), [images.SIDE] * 2, images.CLASSES
    row = {
        "name": images.name,
        "train + test": " + ".join(f"{count:,}" for count in counts),
        "size": f"{' x '.join(map(str, shape))}, {classes} classes",
    }
    try:
        files = images.files(root, download=download)
    except UserError as error:
        if download:
            raise
        say(f"{images.name}: {error}")
        return row | {"state": "missing or damaged", "root": "-", "SHA-256": "-"}
    checksums = "\n".join(f"{path.name} {digest[:16]}..." for path, digest in files)
    place = str(data_root(root)) if files else "inside scikit-learn"
    return row | {"state": "verified", "root": place, "SHA-256": checksums or "-"}
