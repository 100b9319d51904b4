"""Is-same-class: which pairs there are, and how they stand on the canvas."""

import pytest
import torch
from torchvision import transforms

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.core.settings import validate
from data_prep.images import RawImages
from data_prep.same_class import SOURCES, IsSameClass, sample_pairs, scaled

DIGITS = {"images": "digits", "image_size": 8, "canvas": (10, 30), "train": 200, "test": 100}


@pytest.mark.parametrize("sizes", [[2, 2], [2, 5, 3], [40] * 10])
def test_every_allowed_pair_and_no_other_is_drawn(sizes):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator(0, "test"))]
    count = 40_000
    pairs, same = sample_pairs(labels, count, generator(1, "test"))
    first, second = pairs.T
    assert (first != second).all()
    assert torch.equal((labels[first] == labels[second]).long(), same)
    assert same.sum() == count // 2
    for wanted in (0, 1):
        drawn = {tuple(pair) for pair in pairs[same == wanted].tolist()}
        everyone = range(len(labels))
        allowed = {
            (a, b)
            for a in everyone
            for b in everyone
            if a != b and (labels[a] == labels[b]) == wanted
        }
        assert drawn <= allowed
        assert len(drawn) > 0.7 * min(len(allowed), count // 2)


def test_second_images_are_as_likely_each():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    pairs, same = sample_pairs(torch.cat([labels, labels]), 60_000, generator(0, "test"))
    of_first = pairs[(pairs[:, 0] == 3)]
    for wanted, choices in ((1, 3), (0, 8)):
        counts = of_first[same[pairs[:, 0] == 3] == wanted][:, 1].bincount()
        counts = counts[counts > 0].float()
        assert len(counts) == choices
        assert counts.max() / counts.min() < 1.35


@pytest.mark.parametrize("distance", [0, 3, 14])
def test_a_batch_is_the_two_images_on_a_black_canvas(distance):
    data = IsSameClass(**DIGITS, distance=distance)
    part = data.part(None, "train", 0)
    indices = torch.tensor([3, 150])
    images = part(indices)
    assert images.shape == (2, 1, 10, 30)
    assert images.is_contiguous(memory_format=torch.channels_last)
    left, right = data.patches
    assert right.left - left.columns.stop == distance
    for one, pair in zip(images, part.pairs[indices].tolist(), strict=True):
        for patch, image in zip((left, right), pair, strict=True):
            assert torch.equal(patch.of(one)[0], part.raw[image, ..., 0] / 255)
        inside = sum(int(patch.of(one).count_nonzero()) for patch in (left, right))
        assert one.count_nonzero() == inside
    assert abs(left.left - (30 - right.columns.stop)) <= 1


def test_the_two_parts_have_images_of_their_own_and_other_seeds_other_pairs():
    data = IsSameClass(**DIGITS)
    train, test = (data.part(None, name, 0) for name in ("train", "test"))
    assert len(train) == 200
    assert len(test) == 100
    held = {bytes(image.numpy()) for image in train.raw}
    assert not held & {bytes(image.numpy()) for image in test.raw}
    again, other = (data.part(None, "train", seed)(torch.arange(200)) for seed in (0, 1))
    assert torch.equal(train(torch.arange(200)), again)
    assert not torch.equal(again, other)


def test_images_are_scaled_by_the_mean_over_areas():
    image = torch.tensor([[0, 10, 7, 7], [20, 30, 7, 7], [1, 1, 0, 255], [1, 1, 255, 0]])
    small = scaled(image.to(torch.uint8)[None], 2)
    assert small.tolist() == [[[15, 7], [1, 128]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": 15}, "a width of at least 31"),
        ({"image_size": 11}, "a height of at least 11"),
        ({"train": 201}, "a multiple of 2"),
        ({"test": 0}, "greater than or equal to 2"),
        ({"distance": -1}, "greater than or equal to 0"),
        ({"images": "imagenet"}, "'cifar10', 'cifar10_jpeg', 'fashion_mnist'"),
        ({"canvas": [30]}, "data.canvas"),
        ({"color": True}, "expected images in color"),
        ({"standardize": True}, "cifar10 with data.color=true"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        validate(IsSameClass, DIGITS | change, "data")


class Colors:
    """Random images in color in place of CIFAR-10."""

    def read_color(self, root, split):
        rng = generator(0, "colors", split)
        images = torch.randint(256, (40, 32, 32, 3), dtype=torch.uint8, generator=rng)
        return RawImages(images, torch.arange(40) % 4)


def test_published_images_are_normalized_by_channel_on_their_mean_color(monkeypatch):
    monkeypatch.setitem(SOURCES, "cifar10", Colors)
    data = IsSameClass(canvas=(34, 80), distance=6, train=20, test=4, color=True, standardize=True)
    part = data.part(None, "train", 0)
    images = part(torch.arange(20))
    assert images.shape == (20, data.channels, 34, 80)
    normalize = transforms.Normalize((0.491, 0.482, 0.446), (0.247, 0.243, 0.261))
    inside = torch.zeros(34, 80, dtype=torch.bool)
    for patch, chosen in zip(data.patches, part.pairs.T, strict=True):
        expected = normalize(part.raw[chosen].permute(0, 3, 1, 2) / 255)
        torch.testing.assert_close(patch.of(images), expected)
        patch.of(inside).fill_(True)
    assert not images[..., ~inside].any()  # zero is the mean color


def test_published_pairs_are_drawn_with_their_labels_and_may_hold_one_image_twice():
    labels, count = torch.arange(6) % 2, 40_000
    pairs, same = sample_pairs(labels, count, generator(0, "test"), True, True)
    assert torch.equal((labels[pairs[:, 0]] == labels[pairs[:, 1]]).long(), same)
    assert same.float().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / count**0.5)
    assert not torch.equal(same, same.sort(descending=True).values)
    twice = (pairs[:, 0] == pairs[:, 1])[same == 1].float().mean().item()
    assert twice == pytest.approx(1 / 3, abs=0.02)  # three images of each class
