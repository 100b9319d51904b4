"""CIFAR-10: torchvision's, and a copy whose images are JPEG files in folders by class."""

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
from torchvision import datasets

from bench.core.errors import UserError, expecting, require
from bench.core.settings import settings
from data_prep.image_files import image_folder, read_image
from data_prep.images import Files, ImageData, RawImages, data_root

ARCHIVE = "cifar10_jpeg.tar.xz"  # of the folder FOLDER
FOLDER = "cifar10"
TORCHVISION = datasets.CIFAR10.base_folder
LUMA = 19595, 38470, 7471  # of ITU-R 601, in units of 2^-16, as Pillow has it


@settings
class CIFAR10(ImageData):
    """CIFAR-10 [Krizhevsky 2009] as torchvision keeps it, in ``cifar-10-batches-py``."""

    name: ClassVar[str] = "cifar10"
    image_shape: ClassVar[tuple[int, int]] = (32, 32)
    counts: ClassVar[dict[str, int]] = {"train": 50_000, "test": 10_000}

    def files(self, root: str | None, *, download: bool = True) -> Files:
        """Return the folder with the SHA-256 of what is in it.

        Raises
        ------
        UserError
            If there is none.
        """
        folder = data_root(root)
        given = f"execution.root={folder} without {TORCHVISION}/"
        hint = f"set execution.root or RANKBENCH_DATA; {ARCHIVE} is read as cifar10_jpeg"
        require((folder / TORCHVISION).is_dir(), given, "a folder that has it", hint)
        return [(folder / TORCHVISION, _sha256(sorted((folder / TORCHVISION).iterdir())))]

    def read(self, root: str | None, split: str) -> RawImages:
        """Read one part, with the luma of ITU-R 601 in place of colors."""
        raw = self.read_color(root, split)
        gray = [(image.int() @ torch.tensor(LUMA, dtype=torch.int32)) for image in raw.images]
        return RawImages((torch.stack(gray) + 2**15 >> 16).to(torch.uint8), raw.labels)

    def read_color(self, root: str | None, split: str) -> RawImages:
        """Read one part in RGB: images of shape (samples, height, width, 3)."""
        return _read_torchvision(data_root(root), split)


@settings
class CIFAR10JPEG(CIFAR10):
    """CIFAR-10 after lossy compression, so that its images are near the original ones.

    Read from ``cifar10/train/CLASS/`` and ``cifar10/test/CLASS/`` with one image per file, unpacked
    from ``cifar10_jpeg.tar.xz`` if need be.
    """

    name: ClassVar[str] = "cifar10_jpeg"

    def files(self, root: str | None, *, download: bool = True) -> Files:
        """Return the folders in use with the SHA-256 of what is in them.

        Raises
        ------
        UserError
            If there are none and no archive to unpack, or if images are missing.
        """
        folder = data_root(root)
        if not (folder / FOLDER).is_dir():
            _unpack(folder, allowed=download)
        result = []
        for split, count in self.counts.items():
            part = folder / FOLDER / split
            found = image_folder(part)
            given = f"{part} with {len(found)} images in {len(found.classes)} class folders"
            expected = f"{count} images in {self.classes} class folders"
            whole = (len(found), len(found.classes)) == (count, self.classes)
            require(whole, given, expected, "unpack it anew")
            result.append((part, _sha256([Path(path) for path, _ in found.samples])))
        return result

    def read_color(self, root: str | None, split: str) -> RawImages:
        """Read one part in RGB."""
        return _read_folders(data_root(root) / FOLDER / split)


@lru_cache(maxsize=2)
def _read_torchvision(folder: Path, split: str) -> RawImages:
    expected = "torchvision's CIFAR-10, whole, or to be downloaded again"
    with expecting(f"the folder {folder / TORCHVISION}", expected):
        data = datasets.CIFAR10(str(folder), train=split == "train")
    return RawImages(torch.from_numpy(data.data), torch.tensor(data.targets))


@lru_cache(maxsize=2)
def _read_folders(folder: Path) -> RawImages:
    found, images = image_folder(folder), []
    for path, _ in found.samples:
        pixels = read_image(path, lambda image: image.convert("RGB"))
        given = f"the image {path} of shape {pixels.shape[:2]}"
        require(pixels.shape[:2] == CIFAR10.image_shape, given, "32 x 32 pixels")
        images.append(pixels)
    return RawImages(torch.from_numpy(np.stack(images)), torch.tensor(found.targets))


def _unpack(folder: Path, *, allowed: bool) -> None:
    """Unpack the archive: wholly or not at all, and nothing outside the folder."""
    archive = folder / ARCHIVE
    given = f"execution.root={folder} without {FOLDER}/ or {ARCHIVE}"
    hint = "set execution.root or RANKBENCH_DATA to such a folder"
    require(archive.is_file() and allowed, given, "a folder with one of them", hint)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            with tarfile.open(archive) as members:
                members.extractall(scratch, filter="data")
            shutil.move(Path(scratch) / FOLDER, folder / FOLDER)
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
