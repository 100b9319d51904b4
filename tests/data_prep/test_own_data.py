"""Data of a user's own: arrays in a file, images in a folder."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from bench.core.cell import Cell
from bench.core.errors import UserError
from bench.core.settings import as_plain, identity, validate
from data_prep.one_versus_all import images_key
from data_prep.own_data import ArrayFile, ImageFolderData

RNG = np.random.default_rng(0)
X = RNG.integers(0, 5, (40, 3, 2))
Y = np.arange(40) % 2 * 7 - 3  # classes -3 and 4


def array_file(**values):
    return validate(ArrayFile, values, "data")


def image_folder(**values):
    return validate(ImageFolderData, values, "data")


def saved(folder, name="mine.npz", **arrays):
    np.savez(folder / name, **arrays)
    return str(folder / name)


def test_integers_are_split_by_class_and_quantized_from_the_largest_value(tmp_path):
    data = array_file(file=saved(tmp_path, x=X, y=Y), levels=5)
    assert (data.counts, data.classes, data.image_shape) == ({"train": 32, "test": 8}, 2, (3, 2))
    parts = [data.split(None, name) for name in ("train", "test")]
    seen = torch.cat([part.inputs for part in parts]).numpy()
    labels = torch.cat([part.labels for part in parts]).numpy()
    order = [np.flatnonzero((X.reshape(40, -1) == row).all(1))[0] for row in seen]
    assert sorted(order) == list(range(40))
    assert np.array_equal(labels, (Y[order] > 0).astype(int))
    assert parts[1].labels.bincount().tolist() == [4, 4]


def test_floats_are_rounded_to_the_nearest_level(tmp_path):
    x = RNG.random((30, 4))
    x[0, 0] = 1.0
    data = array_file(file=saved(tmp_path, x=x, y=Y[:30], x_test=x, y_test=Y[:30]), levels=4)
    assert np.array_equal(data.split(None, "test").inputs.numpy(), np.rint(x * 3))


def test_levels_that_eight_bits_do_not_hold_are_refused(tmp_path):
    path = saved(tmp_path, x=RNG.random((30, 4)), y=Y[:30])
    with pytest.raises(UserError, match=r"data.levels=300: expected an integer from 2 to 256"):
        array_file(file=path, levels=300)


def test_the_content_names_the_data_and_the_place_does_not(tmp_path):
    for name in ("elsewhere", "other"):
        (tmp_path / name).mkdir()
    here = array_file(file=saved(tmp_path, x=X, y=Y))
    there = array_file(file=saved(tmp_path / "elsewhere", x=X, y=Y))
    other = array_file(file=saved(tmp_path / "other", x=X[::-1], y=Y))
    assert identity(here) == identity(there) != identity(other)
    assert str(tmp_path) not in str(as_plain(here))
    cells = [Cell("original", 0, data, None, None) for data in (here, there, other)]
    keys = [images_key(cell) for cell in cells]
    assert keys[0] == keys[1] != keys[2]
    assert cells[0].run_key == cells[1].run_key != cells[2].run_key


def _folder(folder, sizes=((9, 9),)):
    for label in ("cats", "dogs"):
        (folder / label).mkdir(parents=True)
        for i in range(5):
            size = sizes[i % len(sizes)]
            value = 10 * i + (100 if label == "dogs" else 0)
            Image.new("RGB", size, (value, value, value)).save(folder / label / f"{i}.png")
    return folder


def test_a_folder_of_images_becomes_gray_squares(tmp_path):
    data = image_folder(path=str(_folder(tmp_path / "photos", ((9, 9), (12, 7)))), size=4)
    assert (data.name, data.image_shape, data.brightest) == ("photos/", (4, 4), 140)
    images, labels = data.read(None, "train")
    assert torch.equal((images[:, 0, 0] >= 100).long(), labels)
    assert (images == images[:, :1, :1]).all()


def test_train_and_test_folders_are_the_parts(tmp_path):
    _folder(tmp_path / "train")
    _folder(tmp_path / "test")
    data = image_folder(path=str(tmp_path), size=3)
    assert data.counts == {"train": 10, "test": 10}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "expected the arrays x and y"),
        ({"x": X, "y": Y[:-1]}, r"expected shapes \(samples, ...\) and \(samples,\)"),
        ({"x": X[:0], "y": Y[:0]}, "expected shapes"),
        ({"x": Y, "y": Y}, "expected shapes"),
        ({"x": X - 1, "y": Y}, "from -1 to 3: expected integers from 0 to 65535"),
        ({"x": X * 1.5, "y": Y}, "from 0.0 to 6.0: expected"),
        ({"x": np.where(X > 3, np.nan, 0), "y": Y}, "from nan to nan: expected"),
        ({"x": X, "y": Y * 1.0}, "y of float64: expected integers"),
        ({"x": X, "y": Y * 0}, "with one class: expected at least two"),
        ({"x": X, "y": np.arange(40)}, "with 1 samples of a class"),
        ({"x": X * 0, "y": Y}, "with all values 0"),
        ({"x": X.astype(str), "y": Y}, "expected integers from 0 to 65535"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, "expected one shape"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "expected labels of the train part"),
        ({"x": X, "y": Y, "x_test": X / 9, "y_test": Y}, "with floats and integers"),
        ({"x": np.array([{}] * 40), "y": Y}, "allow_pickle=False"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_one_line(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as caught:
        array_file(file=saved(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_a_file_that_unpacks_without_bound_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.own_data.MOST_BYTES", 1000)
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((100, 100), int), y=np.arange(100) % 2)
    with pytest.raises(UserError, match="bytes of arrays"):
        array_file(file=str(tmp_path / "zeros.npz"))


def test_what_is_no_archive_or_no_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "mine.npz").write_text("no archive")
    for settings in (
        lambda: array_file(file=str(tmp_path / "mine.npz")),
        lambda: array_file(file=str(tmp_path / "missing.npz")),
        lambda: image_folder(path=str(tmp_path / "missing")),
        lambda: image_folder(path=str(tmp_path)),
    ):
        with pytest.raises(UserError) as caught:
            settings()
        assert "\n" not in str(caught.value)
    _folder(tmp_path / "photos")
    (tmp_path / "photos" / "cats" / "0.png").write_bytes(b"\x89PNG, cut short")
    with pytest.raises(UserError, match="expected an image that is whole"):
        image_folder(path=str(tmp_path / "photos"))


def test_squares_that_no_memory_holds_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"data\.size=1000000, which takes"):
        image_folder(path=str(_folder(tmp_path / "photos")), size=10**6)


def test_other_content_than_named_is_refused(tmp_path):
    path = saved(tmp_path, x=X, y=Y)
    known = array_file(file=path).sha256
    assert array_file(file=path, sha256=known).sha256 == known
    with pytest.raises(UserError, match="as when it was named"):
        array_file(file=path, sha256="0" * 64)


def test_a_file_that_changes_after_it_was_named_is_not_read(tmp_path):
    data = array_file(file=saved(tmp_path, x=X, y=Y))
    saved(tmp_path, x=X[::-1], y=Y)
    os.utime(tmp_path / "mine.npz", ns=(0, 0))
    with pytest.raises(UserError, match="do not change"):
        data.read(None, "train")
