"""What values a setting may take, as part of its type: `check_bounds` reads the annotations."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_args, get_type_hints

from bench.errors import require


@dataclass(frozen=True)
class Bound:
    """What one setting may be.

    Parameters
    ----------
    allowed : str
        In words: ``"a number above 0"``.
    holds : callable
        Whether a value is allowed.
    """

    allowed: str
    holds: Callable[[Any], bool]


def at_least(least: int) -> Bound:
    """Return the bound of integers."""
    return Bound(f"an integer of at least {least}", lambda value: value >= least)


def one_of(names: Iterable[str]) -> Bound:
    """Return the bound of a choice among names."""
    *others, last = names = tuple(names)
    return Bound(f"{', '.join(others)} or {last}", names.__contains__)


Count = Annotated[int, at_least(1)]
Finite = Annotated[float, Bound("a finite number", math.isfinite)]
Positive = Annotated[float, Bound("a number above 0", lambda value: 0 < value < math.inf)]
NotNegative = Annotated[float, Bound("a number of at least 0", lambda value: 0 <= value < math.inf)]
BelowOne = Annotated[
    float, Bound("a number of at least 0 and below 1", lambda value: 0 <= value < 1)
]


def check_bounds(group: str, settings: Any) -> None:
    """Raise `UserError` for the first field of a dataclass that is not within its bound.

    Parameters
    ----------
    group : str
        The config group, which names the settings in the message.
    settings : dataclass
        Fields annotated ``Annotated[type, Bound]``, or that ``| None``, are checked.
    """
    hints = get_type_hints(type(settings), include_extras=True)
    for name in [field.name for field in fields(settings)]:
        value, choices = getattr(settings, name), [hints[name], *get_args(hints[name])]
        bounds = [each for choice in choices for each in getattr(choice, "__metadata__", ())]
        or_null = ", or null" if type(None) in choices else ""
        if bounds and not (or_null and value is None):
            require(bounds[0].holds(value), f"{group}.{name}={value}", bounds[0].allowed + or_null)
