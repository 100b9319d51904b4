"""CIFAR-10 in gray, from torchvision's layout or from folders of images by class."""

import hashlib
import lzma
import shutil
import tarfile
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torchvision import datasets

from bench.core.errors import UserError, require
from bench.core.settings import settings
from data_prep.files import data_root
from data_prep.images import ImageData, RawImages

ARCHIVE = "cifar10_jpeg.tar.xz"  # of the folder cifar10
TORCHVISION = datasets.CIFAR10.base_folder


@settings
class CIFAR10(ImageData):
    """CIFAR-10 [Krizhevsky 2009], with the luma of ITU-R 601 in place of colors.

    Read from torchvision's ``cifar-10-batches-py``, or from ``cifar10/train/CLASS/`` and
    ``cifar10/test/CLASS/`` with one image per file, unpacked from ``cifar10_jpeg.tar.xz`` if
    need be.
    """

    name: ClassVar[str] = "cifar10"
    image_shape: ClassVar[tuple[int, int]] = (32, 32)
    counts: ClassVar[dict[str, int]] = {"train": 50_000, "test": 10_000}

    def files(self, root: str | None, *, download: bool = True) -> list[tuple[Path, str]]:
        """Return the folders in use with the SHA-256 of what is in them.

        Raises
        ------
        UserError
            If there are none and no archive to unpack, or if images are missing.
        """
        folder = data_root(root)
        if (folder / TORCHVISION).is_dir():
            return [(folder / TORCHVISION, _sha256([*sorted((folder / TORCHVISION).iterdir())]))]
        if not (folder / self.name).is_dir():
            _unpack(folder, allowed=download)
        result = []
        for split, count in self.counts.items():
            files = _image_files(folder / self.name / split, self.classes)
            paths = [path for of_class in files for path in of_class]
            given = f"{folder / self.name / split} with {len(paths)} images"
            require(len(paths) == count, given, f"{count} images", "unpack it anew")
            result.append((folder / self.name / split, _sha256(paths)))
        return result

    def read(self, root: str | None, split: str) -> RawImages:
        """Read one part, in gray."""
        return _read(data_root(root), split)


@lru_cache(maxsize=2)
def _read(folder: Path, split: str) -> RawImages:
    if (folder / TORCHVISION).is_dir():
        try:
            data = datasets.CIFAR10(str(folder), train=split == "train")
        except Exception as error:
            given = f"the folder {folder / TORCHVISION} ({error})"
            raise UserError(given, "torchvision's CIFAR-10, whole", "download it again") from error
        pixels, labels = [_luma(Image.fromarray(image)) for image in data.data], data.targets
    else:
        files = _image_files(folder / CIFAR10.name / split, CIFAR10.classes)
        pixels = [_open(path) for of_class in files for path in of_class]
        labels = [label for label, of_class in enumerate(files) for _ in of_class]
    return RawImages(torch.from_numpy(np.stack(pixels)), torch.tensor(labels))


def _open(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            size, pixels = image.size, _luma(image)
    except Exception as error:  # Pillow raises whatever its decoders stumble over
        raise UserError(f"the image {path} ({error})", "an image that is whole") from error
    given = f"the image {path} of {size} pixels"
    require(size == CIFAR10.image_shape, given, "32 x 32 pixels")
    return pixels


def _luma(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"))


def _image_files(folder: Path, classes: int) -> list[list[Path]]:
    """Return the files of each class, in the order of the classes' names."""
    folders = sorted(path for path in folder.glob("*") if path.is_dir())
    given = f"{folder} with {len(folders)} class folders"
    require(len(folders) == classes, given, f"{classes} class folders", "unpack it anew")
    files = [sorted(path for path in each.iterdir() if path.is_file()) for each in folders]
    for each, found in zip(folders, files, strict=True):
        require(bool(found), f"the empty class folder {each}", "at least one image per class")
    return files


def _unpack(folder: Path, *, allowed: bool) -> None:
    """Unpack the archive: wholly or not at all, and nothing outside the folder."""
    archive = folder / ARCHIVE
    problem = UserError(
        f"execution.root={folder} without {TORCHVISION}/, cifar10/ or {ARCHIVE}",
        "a folder with one of them",
        "set execution.root or RANKBENCH_DATA to such a folder",
    )
    if not archive.is_file() or not allowed:
        raise problem
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            with tarfile.open(archive) as members:
                members.extractall(scratch, filter="data")
            shutil.move(Path(scratch) / CIFAR10.name, folder / CIFAR10.name)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        given = f"the archive {archive} ({error})"
        raise UserError(given, "a whole archive", "copy it again") from error
    except OSError as error:
        hint = "copy the archive to a folder that can be written and set execution.root to it"
        raise UserError(f"{folder} ({error.strerror})", "a folder to unpack into", hint) from error


def _sha256(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
