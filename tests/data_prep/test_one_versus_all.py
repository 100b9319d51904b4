"""Stacks of one-versus-all problems."""

import torch

from data_prep.digits import Digits
from data_prep.one_versus_all import OneVersusAllStack, Problem


def problem(variant="original", seed=0, **data):
    return Problem(Digits(**data), variant, seed)


def test_targets_are_the_class_under_the_variant():
    problems = [problem(target_class=3), problem("random_labels", 5, target_class=3)]
    stack = OneVersusAllStack(problems, None)
    part = stack.parts()["train"]
    original = stack.data.split(None, "train")
    permuted = stack.data.randomized(original, "random_labels", 5)
    both = part.targets(torch.tensor([0, 1]))
    assert torch.equal(both[0], original.labels == 3)
    assert torch.equal(both[1], permuted.labels == 3)
    assert torch.equal(part.inputs, original.inputs)
    some = torch.tensor([7, 0, 7])
    assert torch.equal(part.targets(torch.tensor([1]), some)[0], both[1][some])


def test_only_problems_with_the_same_images_share_a_key():
    base = problem(target_class=1)
    assert base.images_key() == problem("random_labels", 3, target_class=2).images_key()
    for other in (
        problem("random_images", 0),
        problem("random_images", 1),
        problem(levels=3),
        problem(order_seed=1),
    ):
        assert base.images_key() != other.images_key()
    assert problem("random_images", 0).images_key() != problem("random_images", 1).images_key()


def test_an_epoch_visits_every_sample_once_in_an_order_of_its_own():
    stack = OneVersusAllStack([problem()], None)
    first, second = (torch.cat(list(stack.batches(epoch))) for epoch in (0, 1))
    assert sorted(first.tolist()) == list(range(1437))
    assert not torch.equal(first, second)
    again = OneVersusAllStack([problem(target_class=4)], None)
    assert torch.equal(torch.cat(list(again.batches(1))), second)
