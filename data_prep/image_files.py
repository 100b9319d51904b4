"""Reading image files that lie in one folder per class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.datasets import ImageFolder

from bench.core.errors import UserError, expecting


def image_folder(folder: Path) -> ImageFolder:
    """Return the images of a folder by class; raise `UserError` if a class or all are missing."""
    try:
        return ImageFolder(str(folder))
    except FileNotFoundError as error:
        expected = "a folder with one folder of images per class"
        raise UserError(f"{folder} ({error})"[:300], expected) from error


def read_image(path: str, convert: Callable[[Image.Image], Any]) -> np.ndarray:
    """Return an image, converted, as an array; raise `UserError` if it is damaged."""
    with expecting(f"the image {path}", "an image that is whole"), Image.open(path) as image:
        return np.asarray(convert(image))
