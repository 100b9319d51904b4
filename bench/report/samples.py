"""Samples of a data set, to be looked at."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from torchvision.utils import make_grid

from data_prep.images import ImageData
from data_prep.labeled_images import LabeledImages

ROWS = COLUMNS = 4
SHOWN = slice(ROWS * COLUMNS)


def write(data: ImageData | LabeledImages, root: str | None, path: Path) -> Path:
    """Write the first training samples as a PNG file; return its path.

    Of a task of two classes these are samples of either label under seed 0; of other images, the
    images themselves and what is left of them after quantization.
    """
    sheets = _by_label(data, root) if isinstance(data, LabeledImages) else _quantized(data, root)
    figure, axes = plt.subplots(1, 2, figsize=(12, 6.4), layout="constrained")
    for axis, (title, images) in zip(axes, sheets.items(), strict=True):
        sheet = make_grid(images, nrow=COLUMNS, normalize=True, padding=1, pad_value=0.4)
        axis.imshow(sheet.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path


def _by_label(data: LabeledImages, root: str | None) -> dict[str, Tensor]:
    part = data.part(root, "train", 0)
    chosen = {label: torch.nonzero(part.labels == label).flatten()[SHOWN] for label in (1, 0)}
    return {f"label {label}": part(indices) for label, indices in chosen.items()}


def _quantized(data: ImageData, root: str | None) -> dict[str, Tensor]:
    images, split = data.read(root, "train").images[SHOWN], data.split(root, "train")
    quantized = split.inputs[SHOWN] / (data.levels - 1)
    sheets = {"images": images / data.brightest, f"with {data.levels} gray values": quantized}
    height = data.image_shape[0] if len(data.image_shape) > 1 else 1  # of samples of any shape
    return {title: sheet.reshape(len(sheet), 1, height, -1) for title, sheet in sheets.items()}
