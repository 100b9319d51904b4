"""CIFAR-10: its layouts, its archive, and what can be wrong with them."""

import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from bench.core.errors import UserError
from data_prep.cifar10 import CIFAR10, CIFAR10JPEG, _read_folders, _read_torchvision
from data_prep.images import data_root

CLASSES = ["cat", "dog"]


@pytest.fixture
def small(monkeypatch):
    """Let the data set have two classes of three training images and one test image."""
    monkeypatch.setattr(CIFAR10, "classes", 2)
    monkeypatch.setattr(CIFAR10, "counts", {"train": 6, "test": 2})
    yield CIFAR10JPEG(batch_size=2)
    _read_folders.cache_clear()
    _read_torchvision.cache_clear()


def colors():
    return np.random.default_rng(0).integers(256, size=(6, 32, 32, 3), dtype=np.uint8)


def write_folders(root):
    for split, count in (("train", 3), ("test", 1)):
        for label, name in enumerate(CLASSES):
            folder = root / "cifar10" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(colors()[3 * label + i]).save(folder / f"{i:04}.png")


def write_archive(root):
    write_folders(root / "made")
    with tarfile.open(root / "cifar10_jpeg.tar.xz", "w:xz") as archive:
        archive.add(root / "made" / "cifar10", "cifar10")


def check(data, root):
    raw = data.read(str(root), "train")
    assert raw.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(data.read_color(str(root), "train").images, colors())
    luma = [np.asarray(Image.fromarray(image).convert("L")) for image in colors()]
    assert np.array_equal(raw.images, luma)


def test_folders_by_class_are_read_in_gray(small, tmp_path):
    write_folders(tmp_path)
    check(small, tmp_path)
    digests = dict(small.files(str(tmp_path)))
    assert set(digests) == {tmp_path / "cifar10" / "train", tmp_path / "cifar10" / "test"}
    image = tmp_path / "cifar10" / "test" / "cat" / "0000.png"
    Image.fromarray(colors()[5]).save(image)
    again = dict(small.files(str(tmp_path)))
    assert again[image.parents[1]] != digests[image.parents[1]]


def test_the_archive_is_unpacked_where_that_is_asked_for(small, tmp_path):
    write_archive(tmp_path)
    with pytest.raises(UserError, match=r"; set execution\.root"):
        small.files(str(tmp_path), download=False)
    small.files(str(tmp_path))
    check(small, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cifar10",
        "cifar10_jpeg.tar.xz",
        "made",
    ]


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_a_truncated_archive_leaves_nothing_behind(small, tmp_path, share):
    write_archive(tmp_path)
    archive = tmp_path / "cifar10_jpeg.tar.xz"
    archive.write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
    with pytest.raises(UserError, match="a whole archive"):
        small.files(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar10_jpeg.tar.xz", "made"]


def test_a_member_outside_the_folder_is_refused(small, tmp_path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "image").write_bytes(b"")
    with tarfile.open(tmp_path / "inside" / "cifar10_jpeg.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "image", "../../outside")
    with pytest.raises(UserError, match="a whole archive"):
        small.files(str(tmp_path / "inside"))
    assert not list(tmp_path.glob("outside")) + list(tmp_path.parent.glob("outside"))


def test_missing_images_and_empty_folders_are_refused(small, tmp_path):
    write_folders(tmp_path)
    folder = tmp_path / "cifar10" / "train" / "dog"
    (folder / "0000.png").unlink()
    with pytest.raises(UserError, match="with 5 images"):
        small.files(str(tmp_path))
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no valid file for the classes dog"):
        small.files(str(tmp_path))
    folder.rmdir()
    with pytest.raises(UserError, match="1 class folders"):
        small.files(str(tmp_path))


def test_a_damaged_image_is_named_as_such(small, tmp_path):
    write_folders(tmp_path)
    image = tmp_path / "cifar10" / "train" / "cat" / "0001.png"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(UserError, match="an image that is whole"):
        small.read(str(tmp_path), "train")


def test_torchvision_s_layout_is_read_by_torchvision(small, tmp_path, monkeypatch):
    folder, data = tmp_path / datasets.CIFAR10.base_folder, CIFAR10(batch_size=2)
    with pytest.raises(UserError, match="is read as cifar10_jpeg"):
        data.files(str(tmp_path))
    folder.mkdir()
    with pytest.raises(UserError, match="torchvision's CIFAR-10, whole"):
        data.read(str(tmp_path), "train")
    monkeypatch.setattr(datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets.CIFAR10, "_load_meta", lambda self: None)
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", ""]])
    rows = colors().transpose(0, 3, 1, 2).reshape(6, -1)
    batch = {"data": rows, "labels": [0, 0, 0, 1, 1, 1]}
    (folder / "data_batch_1").write_bytes(pickle.dumps(batch))
    check(data, tmp_path)
    assert data.files(str(tmp_path))[0][0] == folder


@pytest.mark.slow
@pytest.mark.real_data
def test_the_real_archive_is_cifar10(tmp_path):
    archive = data_root(None) / "cifar10_jpeg.tar.xz"
    (tmp_path / archive.name).symlink_to(archive)
    data = CIFAR10JPEG()
    assert len(data.files(str(tmp_path))) == 2
    raw = data.read(str(tmp_path), "test")
    assert raw.images.shape == (10_000, 32, 32)
    assert raw.labels.bincount().tolist() == [1000] * 10
