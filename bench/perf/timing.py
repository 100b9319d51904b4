"""Interleaved timing."""

import statistics
import time
from collections.abc import Callable, Mapping

import torch

LEAST_SECONDS = 0.05  # a measurement shorter than this is repeated within its round


def medians(cases: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of each case in seconds.

    The cases are measured in turn, round by round, so that a drift of the machine's speed changes
    all of them alike. One unmeasured call comes first.
    """
    repeats = {}
    for name, case in cases.items():
        case()
        repeats[name] = max(1, round(LEAST_SECONDS / _time(case, 1)))
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            times[name].append(_time(case, repeats[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def _time(case: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        case()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def ratio(slow: float, fast: float) -> str:
    """Return two times in seconds, and how many times the second goes into the first, as text."""
    return f"{_as_text(slow)} / {_as_text(fast)} = {slow / fast:.3g}"


def _as_text(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
