"""The one exception that a user causes and can fix."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class UserError(ValueError):
    """A mistake in what was asked for, found before any training.

    The command line prints the message as one line and exits with code 2.

    Parameters
    ----------
    given : str
        What was given, with its name: ``"model.rank=0"``.
    expected : str
        What is expected in its place: ``"an integer of at least 1"``.
    hint : str, optional
        How to fix it, if the expected values do not say so already.
    """

    def __init__(self, given: str, expected: str, hint: str = "") -> None:
        parts = [f"{given}: expected {expected}", hint]
        super().__init__("; ".join(" ".join(part.split()) for part in parts if part))
        self.arguments = (given, expected, hint)

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str, str]]:
        return type(self), self.arguments


def require(condition: bool, given: str, expected: str, hint: str = "") -> None:
    """Raise `UserError` unless `condition` holds."""
    if not condition:
        raise UserError(given, expected, hint)


@contextmanager
def expecting(given: str, expected: str, kinds: Any = Exception) -> Iterator[None]:
    """Turn what libraries and the user's own modules raise into a `UserError` that names it."""
    try:
        yield
    except UserError:
        raise
    except kinds as error:
        raise UserError(given, expected, f"{type(error).__name__}: {error}") from error
