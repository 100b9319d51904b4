"""Pathfinder: whether two discs are the ends of one dashed path [HTF, section 6]."""

import hashlib
import io
import json
import math
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from numpy.typing import NDArray
from torch import Tensor

from bench.core.errors import require
from bench.core.files import require_writable, write_atomically
from bench.core.settings import Natural, settings
from data_prep.files import data_root
from data_prep.labeled_images import LabeledImages, LabeledPart, RandomSquare
from data_prep.pathfinder_scenes import SceneConfig, draw_image, draw_images

GENERATOR = 1  # raised whenever the same parameters give other images
CHUNK = 250  # images that a worker draws at a time
SHARE = 5000  # images that take a worker longer than starting it
PATCH_SIZE = 2  # of the regularizer's patches [HTF, section 6]
PARTS = ("train", "test")


@settings
class Pathfinder(LabeledImages):
    """Settings of `configs/data/pathfinder.yaml`.

    Every image depends on `draw_seed`, its part and its index alone; even indices are connected.

    Parameters
    ----------
    scene : SceneConfig
        What the images show.
    draw_seed : int
        Seed of the images, shared by runs of different `seed`.
    """

    name: ClassVar[str] = "pathfinder"

    scene: SceneConfig = SceneConfig()
    draw_seed: Natural = 0

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.scene.image_size, self.scene.image_size

    @property
    def patches(self) -> tuple[RandomSquare, RandomSquare]:
        """Two small squares anywhere."""
        return RandomSquare(PATCH_SIZE), RandomSquare(PATCH_SIZE)

    @cached_property
    def parameters(self) -> str:
        """What the images depend on, as JSON."""
        scene = {k: v for k, v in asdict(self.scene).items() if k != "max_tries"}
        given = {name: getattr(self, name) for name in (*PARTS, "draw_seed")}
        return json.dumps({"generator": GENERATOR, **given, "scene": scene}, sort_keys=True)

    def path(self, root: str | None) -> Path:
        """Return where the images are kept."""
        digest = hashlib.sha256(self.parameters.encode()).hexdigest()[:16]
        return data_root(root) / "pathfinder" / f"length{self.scene.length}_{digest}.npz"

    def files(
        self, root: str | None, *, download: bool = True, workers: int | None = None
    ) -> list[tuple[Path, str]]:
        """Return the file of all images with the SHA-256 of their pixels; see `images`."""
        return [(self.path(root), checksum(self.images(root, draw=download, workers=workers)))]

    def images(
        self, root: str | None, *, draw: bool = True, workers: int | None = None
    ) -> dict[str, NDArray[np.uint8]]:
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
        draw_image(self.scene, True, self.draw_seed, "train", 0)  # finds most mistakes at once
        require_writable(path.parent, "execution.root")
        images = self.draw(workers)
        buffer = io.BytesIO()
        facts = {"parameters": self.parameters, "sha256": checksum(images)}
        np.savez_compressed(buffer, **images, **facts)  # pyright: ignore
        write_atomically(path, buffer.getvalue())
        return images

    def draw(self, workers: int | None = None) -> dict[str, NDArray[np.uint8]]:
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
        counts = {part: getattr(self, part) for part in PARTS}
        chunks = [
            delayed(draw_images)(
                self.scene, range(start, min(start + CHUNK, count)), self.draw_seed, part
            )
            for part, count in counts.items()
            for start in range(0, count, CHUNK)
        ]
        workers = workers or min(cpu_count(), math.ceil(sum(counts.values()) / SHARE))
        images = np.concatenate(list(Parallel(n_jobs=workers)(chunks)))  # pyright: ignore
        different = len({hashlib.sha256(image).digest() for image in images})
        require(
            different == len(images),
            f"{len(images) - different} of {len(images)} images like another",
            "different images",
            "raise data.scene.drawn_size or data.scene.length, or lower data.train and data.test",
        )
        return dict(zip(PARTS, np.split(images, [self.train]), strict=True))

    def part(self, root: str | None, name: str, seed: int) -> "StoredImages":
        """Return a part from the verified file, which does not depend on the run's seed."""
        return StoredImages(torch.from_numpy(self.images(root)[name]))


class StoredImages(LabeledPart):
    """Images in memory, in turn connected and not.

    Parameters
    ----------
    images : Tensor
        Shape (samples, height, width), uint8.
    """

    images: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__(1 - torch.arange(len(images)) % 2)
        self.register_buffer("images", images)

    def forward(self, indices: Tensor) -> Tensor:
        """Return images, shape (batch, height, width), uint8."""
        return self.images[indices]


def checksum(images: dict[str, NDArray[np.uint8]]) -> str:
    """Return the SHA-256 of both parts' pixels."""
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(images[part].tobytes())
    return digest.hexdigest()


def read(path: Path, parameters: str) -> dict[str, NDArray[np.uint8]] | None:
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
