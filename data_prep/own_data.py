"""Your own data without code: arrays in one file, or a folder of images by class."""

import hashlib
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from sklearn.model_selection import train_test_split
from torchvision.transforms import CenterCrop, Compose, Grayscale, Resize

from bench.core.errors import expecting, require
from bench.core.settings import AtLeastTwo, Natural, settings
from data_prep.image_files import image_folder, read_image
from data_prep.images import Files, ImageData, RawImages

SPLIT_SEED = 0  # fixed: the split is part of the data set, not of an experiment
TEST_SHARE = 0.2
MOST_BYTES = 8e9  # of arrays unpacked: a small file can hold any number of zeros
FLOAT_LEVELS = 2**16 - 1  # floats from 0 to 1 are read as integers up to this
DESCRIBED = ("counts", "image_shape", "classes", "brightest", "sha256")  # by what the data hold
STEPS = 15  # of an epoch, by default; MNIST has 12


@dataclass(frozen=True)
class Arrays:
    """What a file or a folder holds.

    Parameters
    ----------
    parts : dict
        `RawImages` by split; labels count from 0.
    counts : dict
        How many samples each part has.
    image_shape : tuple of int
        The shape of a sample.
    classes : int
        How many classes there are.
    brightest : int
        The largest value in either part.
    sha256 : str
        The checksum of all bytes that were read.
    """

    parts: dict[str, RawImages]
    counts: dict[str, int]
    image_shape: tuple[int, ...]
    classes: int
    brightest: int
    sha256: str


@settings
class OwnData(ImageData):
    """Settings of data that are described by what they hold.

    Parameters
    ----------
    sha256 : str, optional
        The checksum of the data; found if it is not given. Runs are identified by it, never by the
        place where the data lie.
    batch_size : int
        Training samples of a step; by default a fifteenth of them, 5,000 at most.
    """

    sha256: str = ""
    batch_size: Natural = 0

    def __post_init__(self) -> None:
        found = self.arrays
        name = self.location.name + "/" * self.location.is_dir()
        given = f"{name} with SHA-256 {found.sha256}"
        expected = f"SHA-256 {self.sha256}, as when it was named"
        require(self.sha256 in ("", found.sha256), given, expected)
        some = min(5000, max(1, found.counts["train"] // STEPS))
        described = {"name": name, "batch_size": self.batch_size or some}
        described |= {key: getattr(found, key) for key in DESCRIBED}
        for key, value in described.items():
            object.__setattr__(self, key, value)  # the class is frozen
        super().__post_init__()

    @property
    @abstractmethod
    def location(self) -> Path:
        """Where the data lie."""

    @property
    @abstractmethod
    def arrays(self) -> Arrays:
        """What the data hold, read once per process."""

    def files(self, root: str | None, *, download: bool = True) -> Files:
        """Return where the data lie and their checksum."""
        return [(self.location, self.sha256)]

    def read(self, root: str | None, split: str) -> RawImages:
        """Read one part; `root` is not used."""
        found = self.arrays
        given = f"{self.name} with SHA-256 {found.sha256}"
        require(found.sha256 == self.sha256, given, "data that do not change while they are in use")
        return found.parts[split]


@settings
class ArrayFile(OwnData):
    """Arrays in an ``.npz`` file, as `numpy.savez` writes it.

    `x` has the shape (samples, ...) and holds integers from 0 to 65,535 or floats from 0 to 1; `y`
    has the shape (samples,) and holds integers, one per class. `x_test` and `y_test` hold the test
    samples; without them a fifth of all samples, stratified by class, is the test part.

    Parameters
    ----------
    file : str
        The file.
    """

    file: str = field(compare=False)

    @property
    def location(self) -> Path:
        """The file."""
        return Path(self.file).expanduser()

    @property
    def arrays(self) -> Arrays:
        """What the file holds.

        Raises
        ------
        UserError
            If it is not such a file.
        """
        given = f"data.file={self.file}"
        require(self.location.is_file(), given, "an .npz file with the arrays x and y")
        return _read_file(self.location, self.location.stat().st_mtime_ns)


@settings
class ImageFolderData(OwnData):
    """Images in one folder per class, in gray, scaled and cropped to a square.

    With ``train/`` and ``test/`` below `path` these hold the classes; else a fifth of all images,
    stratified by class, is the test part.

    Parameters
    ----------
    path : str
        The folder.
    size : int
        Height and width of the images, in pixels.
    """

    path: str = field(compare=False)
    size: AtLeastTwo = 28

    @property
    def location(self) -> Path:
        """The folder."""
        return Path(self.path).expanduser().resolve()

    @property
    def arrays(self) -> Arrays:
        """What the folder holds.

        Raises
        ------
        UserError
            If it does not hold images by class.
        """
        given = f"data.path={self.path}"
        require(self.location.is_dir(), given, "a folder with one folder per class")
        return _read_folder(self.location, self.size)


@lru_cache(maxsize=2)
def _read_file(path: Path, changed: int) -> Arrays:
    found, parts = _load(path), []
    expected = "the arrays x and y, or x, y, x_test and y_test"
    known = {*found} in ({"x", "y"}, {"x", "y", "x_test", "y_test"})
    require(known, f"{path.name} with {', '.join(sorted(found)) or 'no arrays'}", expected)
    for end in ("", "_test")[: len(found) // 2]:
        x, y = found[f"x{end}"], found[f"y{end}"]
        fits = x.ndim > 1 and y.shape == x.shape[:1] and x.size > 0
        given = f"{path.name} with x{end} of shape {x.shape} and y{end} of shape {y.shape}"
        require(fits, given, "shapes (samples, ...) and (samples,)")
        given = f"{path.name} with y{end} of {y.dtype}"
        require(y.dtype.kind in "iu", given, "integers, one per class")
        parts.append((_as_integers(x, f"{path.name}: x{end}"), y))
    shapes = dict.fromkeys(x.shape[1:] for x, _ in parts)
    given = f"{path.name} with samples of shapes {' and '.join(map(str, shapes))}"
    require(len(shapes) == 1, given, "one shape")
    floats = {values.dtype.kind == "f" for name, values in found.items() if name[0] == "x"}
    require(len(floats) == 1, f"{path.name} with floats and integers", "either of them")
    return _assembled(path.name, parts, hashlib.sha256(path.read_bytes()).hexdigest())


def _load(path: Path) -> dict[str, np.ndarray]:
    expected = "a whole .npz file of plain arrays, as numpy.savez writes it"
    # The file is opened lazily, and without pickle.
    with expecting(f"data.file={path.name}", expected), NpzFile(path) as arrays:  # pyright: ignore
        size = sum(member.file_size for member in arrays.zip.infolist())  # pyright: ignore
        require(size <= MOST_BYTES, f"{path.name} with {size:.3g} bytes of arrays", "at most 8e9")
        return {name: arrays[name] for name in arrays.files}


def _as_integers(values: np.ndarray, given: str) -> np.ndarray:
    """Return integers of at least 0; floats from 0 to 1 are scaled to `FLOAT_LEVELS`."""
    expected = f"integers from 0 to {FLOAT_LEVELS}, or floats from 0 to 1"
    require(values.dtype.kind in "biuf", f"{given} of {values.dtype}", expected)
    low, high = values.min(), values.max()  # NaN if any is
    most = 1 if values.dtype.kind == "f" else FLOAT_LEVELS
    require(bool(low >= 0 and high <= most), f"{given} from {low} to {high}", expected)
    if values.dtype.kind == "f":
        return (values.astype(np.float64) * FLOAT_LEVELS).round().astype(np.int32)
    return values.astype(np.int32)


@lru_cache(maxsize=2)
def _read_folder(folder: Path, size: int) -> Arrays:
    gray_square = Compose([Grayscale(), Resize(size), CenterCrop(size)])
    paths = [folder / "train", folder / "test"]
    whole = all(path.is_dir() for path in paths)
    folders = [image_folder(path) for path in (paths if whole else [folder])]
    given = f"{folder} with other classes in test/ than in train/"
    require(folders[0].classes == folders[-1].classes, given, "the same in both")
    room = 4.0 * size**2 * sum(len(found.samples) for found in folders)  # bytes, as int32
    given = f"data.size={size}, which takes {room:.3g} bytes for all images"
    require(room <= MOST_BYTES, given, "at most 8e9", "lower data.size")
    digest, parts = hashlib.sha256(str(size).encode()), []
    for found in folders:
        for path, _ in found.samples:
            digest.update(Path(path).read_bytes())
        digest.update(str(found.targets).encode())
        pixels = [read_image(path, gray_square) for path, _ in found.samples]
        parts.append((np.stack(pixels).astype(np.int32), np.array(found.targets)))
    return _assembled(f"{folder.name}/", parts, digest.hexdigest())


def _assembled(name: str, parts: list[tuple[Any, Any]], digest: str) -> Arrays:
    """Return checked parts, split if there is no test part, with labels that count from 0."""
    labels, counts = np.unique(parts[0][1], return_counts=True)
    require(len(labels) > 1, f"{name} with one class", "at least two")
    if len(parts) == 1:
        enough = counts.min() > 1 and counts.sum() * TEST_SHARE >= len(labels)
        given = f"{name} with {counts.min()} samples of a class"
        require(bool(enough), given, "samples for a train and a test part, or a test part")
        options = {"test_size": TEST_SHARE, "random_state": SPLIT_SEED, "stratify": parts[0][1]}
        x, x_test, y, y_test = train_test_split(*parts[0], **options)
        parts = [(x, y), (x_test, y_test)]
    unknown = np.setdiff1d(parts[1][1], labels)
    given = f"{name} with the test label {unknown[:1]}"
    require(not len(unknown), given, "labels of the train part")
    brightest = max(int(x.max()) for x, _ in parts)
    require(brightest > 0, f"{name} with all values 0", "values that differ")
    read = {
        split: RawImages(torch.from_numpy(x), torch.from_numpy(np.searchsorted(labels, y)))
        for split, (x, y) in zip(("train", "test"), parts, strict=True)
    }
    sizes = {split: len(part.labels) for split, part in read.items()}
    return Arrays(read, sizes, parts[0][0].shape[1:], len(labels), brightest, digest)
