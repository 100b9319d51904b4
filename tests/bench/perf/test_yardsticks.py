"""What is timed against each other computes the same."""

import pytest
import torch

from bench.perf.dynamics import cp_step, hierarchical_step
from bench.perf.regularizer import regularized_step
from bench.perf.tensor_rank import published_step, random_images
from bench.perf.timing import medians


def test_the_penalty_is_beside_the_same_loss():
    _, regularized, plain = regularized_step(batch=3, side=16)
    torch.testing.assert_close(regularized(), plain())


@pytest.mark.parametrize(
    "comparison",
    [cp_step(3, 6, 6, observed=50), hierarchical_step([5, 5, 5, 5], width=6, observed=50)],
    ids=["cp", "hierarchical"],
)
def test_a_full_tensor_step_and_an_entry_by_entry_step_have_the_same_loss(comparison):
    _, slow, fast = comparison
    for _ in range(3):  # equal losses after equal updates: the gradients agree too
        torch.testing.assert_close(fast(), slow(), rtol=1e-4, atol=1e-7)


def test_the_published_formulation_learns():
    step = published_step(2, random_images())
    losses = [float(step()) for _ in range(5)]
    assert losses[-1] < losses[0]


def test_times_are_medians_of_interleaved_calls():
    calls = []
    times = medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert set(times) == {"a", "b"}
    assert all(0 < time < 0.1 for time in times.values())
