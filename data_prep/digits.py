"""scikit-learn's 8 x 8 digits: real data without a download."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from data_prep.images import ImageData, RawImages

SPLIT_SEED = 0  # fixed: the split is part of the data set, not of an experiment


@dataclass
class Digits(ImageData):
    """The digits data set with a fixed stratified split into 1,437 and 360 images."""

    batch_size: int = 96

    NAME: ClassVar[str] = "digits"
    BRIGHTEST: ClassVar[int] = 16
    SIDE: ClassVar[int] = 8
    COUNTS: ClassVar[dict[str, int]] = {"train": 1437, "test": 360}

    def read(self, root: str | None, split: str) -> RawImages:
        """Read one part; `root` is not used, the images are in scikit-learn."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(
            images.reshape(-1, self.SIDE, self.SIDE).astype("uint8"),
            labels,
            test_size=self.COUNTS["test"],
            random_state=SPLIT_SEED,
            stratify=labels,
        )
        i = ("train", "test").index(split)
        return RawImages(torch.from_numpy(parts[i]), torch.from_numpy(parts[i + 2]).long())
