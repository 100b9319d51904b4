"""What is timed against each other computes the same."""

import pytest
import torch

from bench.models.cp import CPConfig
from bench.models.hierarchical import HierarchicalConfig
from bench.perf.tensor_rank import (
    figure_cost,
    learner_of,
    published_step,
    random_images,
    step_of,
)
from bench.perf.timing import medians
from bench.perf.yardsticks import SMALL, completion_step, regularized_step


def test_the_penalty_is_beside_the_same_loss():
    _, regularized, plain = regularized_step(batch=3, side=16)
    torch.testing.assert_close(regularized(), plain())


@pytest.mark.parametrize(
    ("model", "mode_dims"),
    [(CPConfig(rank=6, **SMALL), [6] * 3), (HierarchicalConfig(width=6), [5] * 4)],
    ids=["cp", "hierarchical"],
)
def test_a_full_tensor_step_and_an_entry_by_entry_step_have_the_same_loss(model, mode_dims):
    _, slow, fast = completion_step(model, mode_dims, observed=50)
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


def test_our_step_lowers_the_loss_late_in_training():
    step = step_of(learner_of([2], [0, 1], random_images(), late=True))
    losses = torch.stack([step() for _ in range(5)])
    assert losses.shape == (5, 2)
    assert (losses[-1] < losses[0]).all()


def test_the_figure_s_cost_is_counted_where_all_its_data_were_measured():
    times = {"late, mnist": 0.03, "late, fashion_mnist": 0.05, "late, random images": 0.1}
    times["published"] = 30.0
    ((_, text),) = figure_cost(times)
    assert text == "6.0 hours (3,000 published)"
    del times["late, mnist"]
    assert figure_cost(times) == []
