"""scikit-learn's 8 x 8 digits: real data without a download."""

from typing import ClassVar

import torch

from bench.core.settings import Count, settings
from data_prep.images import ImageData, RawImages

SPLIT_SEED = 0  # fixed: the split is part of the data set, not of an experiment


@settings
class Digits(ImageData):
    """The digits data set with a fixed stratified split into 1,437 and 360 images."""

    batch_size: Count = 96

    name: ClassVar[str] = "digits"
    brightest: ClassVar[int] = 16
    image_shape: ClassVar[tuple[int, int]] = (8, 8)
    counts: ClassVar[dict[str, int]] = {"train": 1437, "test": 360}

    def read(self, root: str | None, split: str) -> RawImages:
        """Read one part; `root` is not used, the images are in scikit-learn."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        images = images.reshape(-1, *self.image_shape).astype("uint8")
        options = {"test_size": self.counts["test"], "random_state": SPLIT_SEED, "stratify": labels}
        parts = train_test_split(images, labels, **options)
        i = ("train", "test").index(split)
        return RawImages(torch.from_numpy(parts[i]), torch.from_numpy(parts[i + 2]))
