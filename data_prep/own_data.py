"""Your own data without code: arrays in one file, or a folder of images by class."""

import hashlib
import zipfile
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import train_test_split
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import center_crop, resize

from bench.core.errors import UserError, require
from bench.core.settings import AtLeastTwo, Natural, settings
from data_prep.images import ImageData, RawImages

SPLIT_SEED = 0  # fixed: the split is part of the data set, not of an experiment
TEST_SHARE = 0.2
MOST_BYTES = 8e9  # of arrays unpacked: a small file can hold any number of zeros
FLOAT_LEVELS = 2**16 - 1  # floats from 0 to 1 are read as integers up to this
STEPS = 15  # of an epoch, by default; MNIST has 12


@dataclass(frozen=True)
class Arrays:
    """What a file or a folder holds.

    Parameters
    ----------
    parts : dict
        `RawImages` by split; labels count from 0.
    classes : int
        How many classes there are.
    brightest : int
        The largest value in either part.
    sha256 : str
        The checksum of all bytes that were read.
    """

    parts: dict[str, RawImages]
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
        found = self.arrays.sha256
        given = f"{self.name} with SHA-256 {found}"
        require(self.sha256 in ("", found), given, f"SHA-256 {self.sha256}, as when it was named")
        object.__setattr__(self, "sha256", found)
        some = min(5000, max(1, self.counts["train"] // STEPS))
        object.__setattr__(self, "batch_size", self.batch_size or some)
        super().__post_init__()

    @property
    @abstractmethod
    def location(self) -> Path:
        """Where the data lie."""

    @property
    @abstractmethod
    def arrays(self) -> Arrays:
        """What the data hold, read once per process."""

    @property
    def counts(self) -> dict[str, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many samples each part has."""
        return {name: len(part.labels) for name, part in self.arrays.parts.items()}

    @property
    def image_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The shape of a sample."""
        return tuple(self.arrays.parts["train"].images.shape[1:])

    @property
    def classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many classes there are."""
        return self.arrays.classes

    @property
    def brightest(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The largest value."""
        return self.arrays.brightest

    def files(self, root: str | None, *, download: bool = True) -> list[tuple[Path, str]]:
        """Return where the data lie and their checksum."""
        return [(self.location, self.sha256)]

    def read(self, root: str | None, split: str) -> RawImages:
        """Read one part; `root` is not used."""
        found = self.arrays
        given = f"{self.name} with SHA-256 {found.sha256}"
        require(found.sha256 == self.sha256, given, "data that nobody changes meanwhile")
        return found.parts[split]


@settings
class ArrayFile(OwnData):
    """Arrays in an ``.npz`` file, as `numpy.savez` writes it.

    `x` has the shape (samples, ...) and holds integers of at least 0 or floats from 0 to 1, `y` has
    the shape (samples,) and holds integers, one per class. `x_test` and `y_test` hold the test
    samples; without them a fifth of all samples, stratified by class, is the test part.

    Parameters
    ----------
    file : str
        The file.
    """

    file: str = field(compare=False)

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The file's name, under which tables know the data."""
        return self.location.name

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
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The folder's name, under which tables know the data."""
        return f"{self.location.name}/"

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
    found = _load(path)
    shapes = {name: found[name].shape for name in found}
    floats = {found[name].dtype.kind == "f" for name in found if name.startswith("x")}
    names = set(found)
    expected = "the arrays x and y, or x, y, x_test and y_test"
    known = names in ({"x", "y"}, {"x", "y", "x_test", "y_test"})
    require(known, f"{path.name} with {', '.join(sorted(names)) or 'no arrays'}", expected)
    for x, y in (("x", "y"), ("x_test", "y_test"))[: len(names) // 2]:
        fits = len(shapes[x]) > 1 and shapes[y] == shapes[x][:1] and found[x].size > 0
        given = f"{path.name} with {x} of shape {shapes[x]} and {y} of shape {shapes[y]}"
        require(fits, given, "shapes (samples, ...) and (samples,)")
        found[x] = _as_integers(found[x], f"{path.name}: {x}")
        given = f"{path.name} with {y} of {found[y].dtype}"
        require(found[y].dtype.kind in "iu", given, "integers, one per class")
    if "x_test" in found:
        given = f"{path.name} with samples of shapes {shapes['x'][1:]} and {shapes['x_test'][1:]}"
        require(shapes["x"][1:] == shapes["x_test"][1:], given, "one shape")
        require(len(floats) == 1, f"{path.name} with floats and integers", "one of them")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    test = (found["x_test"], found["y_test"]) if "x_test" in found else None
    return _assembled(path.name, (found["x"], found["y"]), test, digest)


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        require(size <= MOST_BYTES, f"{path.name} with {size:.3g} bytes of arrays", "8e9 at most")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except UserError:
        raise
    except Exception as error:  # whatever a damaged archive makes NumPy stumble over
        message = " ".join(str(error).split())
        expected = "a whole .npz file of plain arrays, as numpy.savez writes it"
        raise UserError(f"data.file={path.name} ({message})", expected) from error


def _as_integers(values: np.ndarray, given: str) -> np.ndarray:
    """Return integers of at least 0; floats from 0 to 1 are scaled to `FLOAT_LEVELS`."""
    expected = "integers of at least 0, or floats from 0 to 1"
    require(values.dtype.kind in "biuf", f"{given} of {values.dtype}", expected)
    low, high = values.min(), values.max()  # NaN if any is
    most = 1 if values.dtype.kind == "f" else FLOAT_LEVELS
    require(bool(low >= 0 and high <= most), f"{given} from {low} to {high}", expected)
    if values.dtype.kind == "f":
        return (values.astype(np.float64) * FLOAT_LEVELS).round().astype(np.int32)
    return values.astype(np.int32)


@lru_cache(maxsize=2)
def _read_folder(folder: Path, size: int) -> Arrays:
    parts = [folder / "train", folder / "test"]
    whole = all(part.is_dir() for part in parts)
    digest = hashlib.sha256(str(size).encode())
    read = [_read_images(part, size, digest) for part in (parts if whole else [folder])]
    names = [names for _, _, names in read]
    require(
        names[0] == names[-1], f"{folder} with other classes in test/ than in train/", "one set"
    )
    x, y, _ = read[0]
    test = read[1][:2] if whole else None
    return _assembled(f"{folder.name}/", (x, y), test, digest.hexdigest())


def _read_images(
    folder: Path, size: int, digest: "hashlib._Hash"
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the images of a folder, their labels, and the names of the classes."""
    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        message = " ".join(str(error).split())
        expected = "a folder with one folder of images per class"
        raise UserError(f"{folder} ({message})"[:300], expected) from error
    pixels = []
    for path, _ in found.samples:
        digest.update(Path(path).read_bytes())
        try:
            with Image.open(path) as image:
                square = center_crop(resize(image.convert("L"), size), size)  # pyright: ignore
        except Exception as error:  # Pillow raises whatever its decoders stumble over
            raise UserError(f"the image {path} ({error})", "an image that is whole") from error
        pixels.append(np.asarray(square, dtype=np.int32))
    digest.update(str(found.targets).encode())
    return np.stack(pixels), np.array(found.targets), found.classes


def _assembled(
    name: str,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray] | None,
    digest: str,
) -> Arrays:
    """Return checked parts, split if there is no test part, with labels that count from 0."""
    labels, counts = np.unique(train[1], return_counts=True)
    require(len(labels) > 1, f"{name} with one class", "at least two")
    if test is None:
        enough = counts.min() > 1 and counts.sum() * TEST_SHARE >= len(labels)
        given = f"{name} with {counts.min()} samples of a class"
        require(bool(enough), given, "samples for a train and a test part, or a test part")
        x, x_test, y, y_test = train_test_split(
            *train, test_size=TEST_SHARE, random_state=SPLIT_SEED, stratify=train[1]
        )
        train, test = (np.asarray(x), np.asarray(y)), (np.asarray(x_test), np.asarray(y_test))
    unknown = np.setdiff1d(test[1], labels)
    require(
        not len(unknown), f"{name} with the test label {unknown[:1]}", "labels of the train part"
    )
    brightest = int(max(train[0].max(), test[0].max()))
    require(brightest > 0, f"{name} with all values 0", "values that differ")
    parts = {
        split: RawImages(torch.from_numpy(x), torch.from_numpy(np.searchsorted(labels, y)))
        for split, (x, y) in zip(("train", "test"), (train, test), strict=True)
    }
    return Arrays(parts, len(labels), brightest, digest)
