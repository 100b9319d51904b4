"""The file of Pathfinder images."""

import os

import numpy as np
import pytest
import torch

from bench.core.errors import UserError
from bench.core.settings import validate
from data_prep.pathfinder import Pathfinder
from data_prep.pathfinder_scenes import SceneConfig, draw_image


def task(**values):
    return Pathfinder(**{"train": 600, "test": 20, "scene": SceneConfig(length=3)} | values)


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    files = []
    for workers in (1, 2):
        ((path, _),) = task().files(str(tmp_path / str(workers)), workers=workers)
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_parts_are_balanced_and_what_their_seed_says(tmp_path):
    data = task(train=6, test=4, draw_seed=3)
    for name, count in (("train", 6), ("test", 4)):
        part = data.part(str(tmp_path), name, seed=0)
        drawn = [draw_image(data.scene, i % 2 == 0, 3, name, i) for i in range(count)]
        expected = torch.from_numpy(np.stack(drawn))
        assert part.labels.tolist() == [1, 0] * (count // 2)
        assert torch.equal(part(torch.arange(count))[:, 0], expected / 255)
        assert torch.equal(part(torch.tensor([2, 1]))[:, 0], expected[[2, 1]] / 255)


@pytest.mark.parametrize("how", ["truncated", "bytes", "pixels", "parameters"])
def test_a_damaged_or_foreign_file_is_drawn_anew(tmp_path, how):
    data = task(train=4, test=2)
    ((path, digest),) = data.files(str(tmp_path))
    good = path.read_bytes()
    if how == "truncated":
        path.write_bytes(good[: len(good) // 2])
    elif how == "bytes":
        path.write_bytes(good[:200] + b"xxxx" + good[204:])
    else:
        with np.load(path) as file:
            arrays = dict(file)
        if how == "pixels":
            arrays["test"][0, 0, 0] ^= 1
        else:
            arrays["parameters"] = np.array(task(train=4, test=2, draw_seed=1).parameters)
        np.savez_compressed(path, **arrays)
    with pytest.raises(UserError, match=r"execution\.root"):
        data.files(str(tmp_path), download=False)
    assert data.files(str(tmp_path)) == [(path, digest)]
    assert path.read_bytes() == good


def test_other_parameters_have_another_file():
    paths = {task(**v).path(None) for v in ({}, {"draw_seed": 1}, {"train": 602})}
    assert len(paths) == 3


def test_equal_images_are_refused_and_nothing_is_written(tmp_path, monkeypatch):
    black = np.zeros((4, 4), np.uint8)
    monkeypatch.setattr("data_prep.pathfinder.draw_image", lambda *_: black)
    with pytest.raises(UserError, match="3 of 4 images are like another"):
        task(train=2, test=2).files(str(tmp_path), workers=1)
    assert not [name for _, _, names in os.walk(tmp_path) for name in names]


def test_a_scene_without_room_leaves_no_folder(tmp_path):
    crowded = SceneConfig(length=60, max_tries=3)
    with pytest.raises(UserError, match=r"data\.scene\.length=60"):
        task(scene=crowded).files(str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("values", [{"train": 7}, {"test": 0}, {"draw_seed": -1}])
def test_bad_tasks_are_refused(values):
    ((name, value),) = values.items()
    with pytest.raises(UserError, match=f"data.{name}={value}"):
        validate(Pathfinder, values, "data")


def test_published_images_are_standardized_and_their_labels_drawn(tmp_path):
    data = task(train=80, test=8, standardize=True, drawn_labels=True)
    train, test = (data.part(str(tmp_path), name, seed=0) for name in ("train", "test"))
    images = train(torch.arange(80))
    assert images.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.std().item() == pytest.approx(1, abs=1e-5)
    raw = data.images(str(tmp_path))["train"] / 255
    expected = (data.images(str(tmp_path))["test"] / 255 - raw.mean()) / raw.std()
    np.testing.assert_allclose(test(torch.arange(8))[:, 0], expected, atol=1e-4)
    assert 20 < train.labels.sum() < 60
    assert train.labels.tolist() != [1, 0] * 40
    for index, label in enumerate(train.labels[:6].tolist()):
        drawn = draw_image(data.scene, bool(label), 0, "train", index)
        assert np.array_equal(data.images(str(tmp_path))["train"][index], drawn)


def test_each_run_may_have_images_of_its_own(tmp_path):
    fresh = task(train=4, test=2, draw_seed=None)
    ours = [fresh.part(str(tmp_path), "train", seed)(torch.arange(4)) for seed in (0, 1)]
    assert not torch.equal(*ours)
    kept = task(train=4, test=2, draw_seed=1).part(str(tmp_path), "train", 0)(torch.arange(4))
    assert torch.equal(ours[1], kept)
    paths = [fresh.of_run(seed).files(str(tmp_path))[0][0] for seed in (0, 1)]
    assert len({*paths}) == len([*(tmp_path / "pathfinder").iterdir()]) == 2
