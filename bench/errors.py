"""The one exception a user causes and can mend."""


class UserError(ValueError):
    """A mistake in what was asked for, found before any training.

    The command line prints the message as one line and exits with code 2.

    Parameters
    ----------
    given : str
        What was given, with its name: ``"model.rank=0"``.
    allowed : str
        What is allowed: ``"an integer of at least 1"``.
    mend : str, optional
        How to mend it, if the allowed values do not say it already.
    """

    def __init__(self, given: str, allowed: str, mend: str = "") -> None:
        parts = [f"{given} is not allowed", f"allowed: {allowed}"]
        if mend:
            parts.append(f"to mend: {mend}")
        super().__init__("; ".join(" ".join(part.split()) for part in parts))


def require(condition: bool, given: str, allowed: str, mend: str = "") -> None:
    """Raise `UserError` unless `condition` holds."""
    if not condition:
        raise UserError(given, allowed, mend)
