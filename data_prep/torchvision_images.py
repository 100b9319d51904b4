"""MNIST and Fashion-MNIST in torchvision's folder layout, verified before use."""

import contextlib
import hashlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from torchvision import datasets
from torchvision.datasets.mnist import read_image_file, read_label_file

from bench.core.errors import UserError, expecting, require
from bench.core.settings import settings
from data_prep.images import Files, ImageData, RawImages, data_root


@settings
class TorchvisionImages(ImageData):
    """A data set of four IDX files that torchvision can download.

    Attributes
    ----------
    dataset : type
        torchvision's class.
    options : dict
        Its further arguments.
    sha256 : dict
        The files' names and checksums; an empty one is not compared, and torchvision has verified
        the archive that it has downloaded.
    """

    image_shape: ClassVar[tuple[int, int]] = (28, 28)
    counts: ClassVar[dict[str, int]] = {"train": 60_000, "test": 10_000}
    dataset: ClassVar[type[datasets.MNIST]]
    options: ClassVar[dict[str, Any]] = {}
    sha256: ClassVar[dict[str, str]]

    def files(self, root: str | None, *, download: bool = True) -> Files:
        """Return the four files with their SHA-256; download those that are missing if allowed.

        Raises
        ------
        UserError
            If a file is missing and cannot be downloaded, or is not the published one. Such a file
            is neither used nor overwritten.
        """
        folder = data_root(root) / self.dataset.__name__ / "raw"
        missing = [name for name in self.sha256 if not (folder / name).is_file()]
        if missing:
            self._download(folder, missing, allowed=download)
        return [(folder / name, self._verify(folder / name)) for name in self.sha256]

    def _download(self, folder: Path, missing: list[str], *, allowed: bool) -> None:
        raw = f"{self.dataset.__name__}/raw"
        given = f"execution.root={folder.parents[1]} without {raw}/{missing[0]}"
        expected = "a folder in torchvision's layout, or a network to download it from"
        hint = "set execution.root or RANKBENCH_DATA to the folder that holds the files"
        problem = UserError(given, expected, hint)
        if not allowed:
            raise problem
        # Into a folder of its own first: a download that breaks off leaves nothing behind.
        with tempfile.TemporaryDirectory() as scratch:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    self.dataset(scratch, download=True, **self.options)
            except Exception as error:
                raise problem from error
            folder.mkdir(parents=True, exist_ok=True)
            for name in missing:
                shutil.move(Path(scratch) / raw / name, folder / name)

    def _verify(self, path: Path) -> str:
        with expecting(f"the file {path}", "a readable file"):
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        given = f"the file {path} with {path.stat().st_size} bytes and SHA-256 {found}"
        expected = f"SHA-256 {self.sha256[path.name]}"
        hint = "move it away and let it be downloaded again, or copy the right file there"
        require(self.sha256[path.name] in ("", found), given, expected, hint)
        return found

    def read(self, root: str | None, split: str) -> RawImages:
        """Read one part from verified files."""
        of_train = [(path, "train" in path.name) for path, _ in self.files(root)]
        images, labels = (path for path, train in of_train if train == (split == "train"))
        given = f"{images.name} or {labels.name}"  # cut short since they were verified
        with expecting(given, "files that do not change while they are read"):
            return RawImages(read_image_file(str(images)), read_label_file(str(labels)))


@settings
class MNIST(TorchvisionImages):
    """MNIST: handwritten digits."""

    name: ClassVar[str] = "mnist"
    dataset: ClassVar[type[datasets.MNIST]] = datasets.MNIST
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }


@settings
class FashionMNIST(TorchvisionImages):
    """Fashion-MNIST: clothes."""

    name: ClassVar[str] = "fashion_mnist"
    dataset: ClassVar[type[datasets.MNIST]] = datasets.FashionMNIST
    sha256: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    }


@settings
class KMNIST(TorchvisionImages):
    """Kuzushiji-MNIST [Clanuwat et al. 2018]: cursive Japanese characters."""

    name: ClassVar[str] = "kmnist"
    dataset: ClassVar[type[datasets.MNIST]] = datasets.KMNIST
    sha256: ClassVar[dict[str, str]] = dict.fromkeys(MNIST.sha256, "")


@settings
class EMNIST(TorchvisionImages):
    """EMNIST Balanced [Cohen et al. 2017]: digits and letters, those of like shape merged."""

    name: ClassVar[str] = "emnist"
    dataset: ClassVar[type[datasets.MNIST]] = datasets.EMNIST
    options: ClassVar[dict[str, Any]] = {"split": "balanced"}
    counts: ClassVar[dict[str, int]] = {"train": 112_800, "test": 18_800}
    classes: ClassVar[int] = 47
    sha256: ClassVar[dict[str, str]] = {
        f"emnist-balanced-{part}-{kind}-ubyte": ""
        for part in ("train", "test")
        for kind in ("images-idx3", "labels-idx1")
    }

    def read(self, root: str | None, split: str) -> RawImages:
        """Read one part; the files hold each image transposed."""
        images, labels = super().read(root, split)
        return RawImages(images.mT.contiguous(), labels)
