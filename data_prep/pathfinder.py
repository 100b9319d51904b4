"""Pathfinder: whether two discs are the ends of one dashed path [HTF, section 6]."""

import hashlib
import io
import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from joblib import Parallel, cpu_count, delayed
from numpy.typing import NDArray
from torch import Tensor

from bench.bounds import Count, at_least
from bench.errors import require
from bench.regularizers.patches import RandomPatch
from bench.tracking.records import require_writable, write_atomically
from data_prep.labelled_images import LabelledImages, LabelledPart
from data_prep.pathfinder_scenes import SceneConfig, draw_image, draw_images
from data_prep.torchvision_images import data_root

GENERATOR = 1  # raised whenever the same parameters give other images
CHUNK = 250  # images that a worker draws at a time
SHARE = 5000  # images that take a worker longer than starting it
PATCH_SIZE = 2  # of the regularizer's patches [HTF, section 6]
PARTS = ("train", "test")


@dataclass
class Pathfinder(LabelledImages):
    """Schema of `configs/data/pathfinder.yaml`.

    Every image depends on `draw_seed`, its part and its index alone; even indices are connected.

    Parameters
    ----------
    scene : SceneConfig
        What the images show.
    draw_seed : int
        Seed of the images, shared by runs of different `seed`.
    workers : int or None
        Processes that draw; by default one for every `SHARE` images, as long as there are cores.
        The images are the same for any number.
    """

    name: str = "pathfinder"
    scene: SceneConfig = field(default_factory=SceneConfig)
    draw_seed: Annotated[int, at_least(0)] = 0
    workers: Count | None = None

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.scene.image_size, self.scene.image_size

    @property
    def patches(self) -> tuple[RandomPatch, RandomPatch]:
        """The regularizer's patches: anywhere."""
        return RandomPatch(PATCH_SIZE), RandomPatch(PATCH_SIZE)

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

    def files(self, root: str | None, *, download: bool = True) -> list[tuple[Path, str]]:
        """Return the file of all images with the SHA-256 of their pixels; see `images`."""
        return [(self.path(root), checksum(self.images(root, draw=download)))]

    def images(self, root: str | None, *, draw: bool = True) -> dict[str, NDArray[np.uint8]]:
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
        given, allowed = f"data.root={data_root(root)} without {path.name}", "a folder that has it"
        require(draw, given, allowed, "draw it with `rankbench data pathfinder`")
        draw_image(self.scene, True, self.draw_seed, "train", 0)  # finds most mistakes at once
        require_writable(path.parent, "data.root")
        images = self.draw()
        buffer = io.BytesIO()
        facts = {"parameters": self.parameters, "sha256": checksum(images)}
        np.savez_compressed(buffer, **images, **facts)  # pyright: ignore
        write_atomically(path, buffer.getvalue())
        return images

    def draw(self) -> dict[str, NDArray[np.uint8]]:
        """Draw both parts and verify that no two images are alike.

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
        workers = self.workers or min(cpu_count(), math.ceil(sum(counts.values()) / SHARE))
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


class StoredImages(LabelledPart):
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
        """Return images, shape (batch, 1, height, width), float32 in [0, 1]."""
        return self.images[indices].unsqueeze(1) / 255


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
