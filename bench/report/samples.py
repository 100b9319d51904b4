"""Samples of a task of two classes, to be looked at."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torchvision.utils import make_grid

from data_prep.labelled_images import LabelledImages

ROWS = COLUMNS = 4


def write(data: LabelledImages, root: str | None, path: Path) -> Path:
    """Write the first training samples of either label, seed 0, as a PNG file; return its path."""
    part = data.part(root, "train", 0)
    figure, axes = plt.subplots(1, 2, figsize=(12, 6.4), layout="constrained")
    for axis, label in zip(axes, (1, 0), strict=True):
        chosen = torch.nonzero(part.labels == label).flatten()[: ROWS * COLUMNS]
        sheet = make_grid(part(chosen), nrow=COLUMNS, padding=1, pad_value=0.4)
        axis.imshow(sheet.permute(1, 2, 0).numpy(), interpolation="nearest")
        axis.set_title(f"label {label}")
        axis.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return path
