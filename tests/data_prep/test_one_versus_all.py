"""Stacks of one-versus-all problems."""

import torch

from bench.core.cell import Cell
from bench.core.seeding import batches
from data_prep.digits import Digits
from data_prep.one_versus_all import images_key, read_parts


def cell(variant="original", seed=0, **data):
    return Cell(variant, seed, Digits(**data), model=None, learner=None)


def test_targets_are_the_class_under_the_variant():
    cells = [cell(target_class=3), cell("random_labels", 5, target_class=3)]
    part = read_parts(cells)["train"]
    data = cells[0].data
    original = data.split(None, "train")
    permuted = data.randomized(original, "random_labels", 5)
    both = part.targets(torch.tensor([0, 1]))
    assert torch.equal(both[0], original.labels == 3)
    assert torch.equal(both[1], permuted.labels == 3)
    assert torch.equal(part.inputs, original.inputs)
    some = torch.tensor([7, 0, 7])
    assert torch.equal(part.targets(torch.tensor([1]), some)[0], both[1][some])


def test_only_problems_with_the_same_images_share_a_key():
    base = images_key(cell(target_class=1))
    assert base == images_key(cell("random_labels", 3, target_class=2))
    others = [cell("random_images", 0), cell("random_images", 1), cell(levels=3)]
    keys = {images_key(other) for other in (*others, cell(order_seed=1))}
    assert len(keys) == 4
    assert base not in keys
    assert base != images_key(cell(target_class=1), "something else")


def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own():
    first, second = (batches(1437, 96, 0, epoch) for epoch in (0, 1))
    assert {len(batch) for batch in first} == {96, 1437 % 96}
    assert sorted(torch.cat(first).tolist()) == list(range(1437))
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert torch.equal(torch.cat(batches(1437, 96, 0, 1)), torch.cat(second))
    assert torch.equal(torch.cat(batches(1437, 96, None, 1)), torch.arange(1437))
