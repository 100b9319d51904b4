"""Interleaved timing."""

import statistics
from collections.abc import Callable, Mapping
from timeit import timeit

from torch import Tensor
from torch.optim import Optimizer

LEAST_SECONDS = 0.05  # a measurement shorter than this is repeated within its round


def medians(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each case in seconds.

    The cases are measured in turn, round by round, so that a drift of the machine's speed changes
    all of them alike. One unmeasured call comes first.
    """
    repeats = {}
    for name, case in cases.items():
        case()
        repeats[name] = max(1, round(LEAST_SECONDS / timeit(case, number=1)))
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            times[name].append(timeit(case, number=repeats[name]) / repeats[name])
    return {name: statistics.median(found) for name, found in times.items()}


def training_step(optimizer: Optimizer, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that takes one step and returns the loss before it."""

    def step() -> Tensor:
        optimizer.zero_grad()
        before = loss()
        before.backward()
        optimizer.step()
        return before.detach()

    return step


def ratio(slow: float, fast: float) -> str:
    """Return two times in seconds, and how many times the second goes into the first, as text."""
    texts = [f"{s:.3g} s" if s >= 1 else f"{s * 1e3:.3g} ms" for s in (slow, fast)]
    return f"{' / '.join(texts)} = {slow / fast:.3g}"
