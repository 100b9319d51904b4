"""Pathfinder: whether two discs are the ends of one dashed path [HTF, section 6]."""

import hashlib
import io
import json
import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from torch import Tensor, nn

from bench.core.errors import require
from bench.core.files import require_writable, write_atomically
from bench.core.seeding import generator
from bench.core.settings import Natural, as_plain, settings
from data_prep.images import Files, data_root
from data_prep.labeled_images import LabeledImages, LabeledPart
from data_prep.patches import RandomPatch
from data_prep.pathfinder_scenes import Pixels, SceneConfig, draw_image

GENERATOR = 1  # raised whenever the same parameters give other images
CHUNK = 250  # images that a worker draws at a time
SHARE = 5000  # images that take a worker longer than starting it
PATCH_SIZE = 2  # of the regularizer's patches [HTF, section 6]
PARTS = ("train", "test")
Parts = dict[str, Pixels]  # images by part, each of shape (images, size, size)


@settings
class Pathfinder(LabeledImages):
    """Settings of `configs/data/pathfinder.yaml`.

    Every image depends on `draw_seed`, its part and its index alone. Those of even index are
    connected, unless labels are drawn.

    Parameters
    ----------
    scene : SceneConfig
        What the images show.
    draw_seed : int or None
        Seed of the images, shared by runs of different `seed`; None stands for the run's own.
    """

    name: ClassVar[str] = "pathfinder"

    scene: SceneConfig = SceneConfig()
    draw_seed: Natural | None = 0

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.scene.image_size, self.scene.image_size

    @property
    def patches(self) -> tuple[RandomPatch, RandomPatch]:
        """Two small squares anywhere."""
        return RandomPatch(PATCH_SIZE), RandomPatch(PATCH_SIZE)

    def of_run(self, seed: int) -> "Pathfinder":
        """Return the settings of the images that a run of this seed reads."""
        return self if self.draw_seed is not None else replace(self, draw_seed=seed)

    @cached_property
    def parameters(self) -> str:
        """What the images depend on, as JSON."""
        given = as_plain(self)
        given["scene"].pop("max_tries")
        given.pop("standardize", None)
        return json.dumps({"generator": GENERATOR, **given}, sort_keys=True)

    def path(self, root: str | None) -> Path:
        """Return where the images are kept."""
        digest = hashlib.sha256(self.parameters.encode()).hexdigest()[:16]
        return data_root(root) / "pathfinder" / f"length{self.scene.length}_{digest}.npz"

    def files(
        self, root: str | None, *, download: bool = True, workers: int | None = None
    ) -> Files:
        """Return the file of all images with the SHA-256 of their pixels; see `images`."""
        own = self.of_run(0)
        return [(own.path(root), checksum(own.images(root, draw=download, workers=workers)))]

    def images(self, root: str | None, *, draw: bool = True, workers: int | None = None) -> Parts:
        """Return both parts, each shape (images, size, size), from the file; write it if need be.

        A file that is damaged, or of other parameters than its name says, is drawn anew.

        Raises
        ------
        UserError
            If there is no such file and `draw` is not allowed, or see `draw`.
        """
        path = self.path(root)
        images = read(path, self.parameters)
        if images is not None:
            return images
        given = f"execution.root={data_root(root)} without {path.name}"
        require(draw, given, "a folder that has it", "draw it with `rankbench data pathfinder`")
        draw_image(self.scene, True, self.draw_seed or 0, "train", 0)  # finds most mistakes at once
        require_writable(path.parent, "execution.root")
        images = self.draw(workers)
        buffer = io.BytesIO()
        facts = {"parameters": self.parameters, "sha256": checksum(images)}
        np.savez_compressed(buffer, **images, **facts)  # pyright: ignore
        write_atomically(path, buffer.getvalue())
        return images

    def labels(self, part: str) -> Tensor:
        """Return which images of a part are connected, shape (images,), int64."""
        count = getattr(self, part)
        if self.drawn_labels:
            rng = generator(self.draw_seed or 0, "pathfinder labels", part)
            return torch.randint(2, (count,), generator=rng)
        return 1 - torch.arange(count) % 2

    def draw(self, workers: int | None = None) -> Parts:
        """Draw both parts and verify that no two images are alike.

        Parameters
        ----------
        workers : int, optional
            Processes that draw; by default one for every `SHARE` images, as long as there are
            cores. The images are the same for any number.

        Raises
        ------
        UserError
            If a scene has no room, or two images are alike.
        """
        tasks = [
            delayed(draw_image)(self.scene, connected, self.draw_seed, part, index)
            for part in PARTS
            for index, connected in enumerate(self.labels(part).tolist())
        ]
        workers = workers or min(cpu_count(), math.ceil((self.train + self.test) / SHARE))
        images = np.stack(list(Parallel(n_jobs=workers, batch_size=CHUNK)(tasks)))  # pyright: ignore
        different = len({hashlib.sha256(image).digest() for image in images})
        given = f"{len(images) - different} of {len(images)} images are like another"
        hint = "raise data.scene.drawn_size or data.scene.length, or lower data.train and data.test"
        require(different == len(images), given, "different images", hint)
        return dict(zip(PARTS, np.split(images, [self.train]), strict=True))

    def part(self, root: str | None, name: str, seed: int) -> "StoredImages":
        """Return a part from the verified file."""
        own = self.of_run(seed)
        images = own.images(root)
        statistics = mean_and_deviation(images["train"]) if self.standardize else (0.0, 1.0)
        return StoredImages(torch.from_numpy(images[name]), own.labels(name), *statistics)


class StoredImages(LabeledPart):
    """Images in memory.

    Parameters
    ----------
    images : Tensor
        Shape (samples, height, width), uint8.
    labels : Tensor
        Shape (samples,), int64.
    mean, deviation : float
        What is subtracted from values in [0, 1], and what the difference is divided by.
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: float, deviation: float) -> None:
        super().__init__(labels)
        self.images: Tensor = nn.Buffer(images)
        self.mean, self.deviation = mean, deviation

    def forward(self, indices: Tensor) -> Tensor:
        """Return images, shape (batch, 1, height, width), float32."""
        values = (self.images[indices] / 255 - self.mean) / self.deviation
        return values.unsqueeze(-1).permute(0, 3, 1, 2)  # channels last in memory


def mean_and_deviation(images: Pixels) -> tuple[float, float]:
    """Return the mean and the standard deviation of all pixels in [0, 1]."""
    counts = np.bincount(images.ravel(), minlength=256)
    values, count = np.arange(256) / 255, images.size
    mean = counts @ values / count
    return float(mean), float(np.sqrt(counts @ (values - mean) ** 2 / (count - 1)))


def checksum(images: Parts) -> str:
    """Return the SHA-256 of both parts' pixels."""
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(images[part].tobytes())
    return digest.hexdigest()


def read(path: Path, parameters: str) -> Parts | None:
    """Return the parts in a file; None if it is missing, damaged or of other parameters."""
    if not path.is_file():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            images = {part: file[part] for part in PARTS}
            written = str(file["parameters"]), str(file["sha256"])
    except Exception:  # whatever the readers of zip, zlib and npy say of a damaged file
        return None
    return images if written == (parameters, checksum(images)) else None
