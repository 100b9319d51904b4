"""How a run can end."""

from enum import StrEnum


class Status(StrEnum):
    """The end of a run, apart from its numbers.

    `CONVERGED`: the stop criterion held. `MAX_STEPS`: the last epoch was reached first.
    `DIVERGED`: the loss left the finite numbers. `STOPPED`: interrupted from outside.
    `FAILED`: an error, whose traceback is in the record.
    """

    CONVERGED = "converged"
    MAX_STEPS = "max_steps"
    DIVERGED = "diverged"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether the same run would end the same way again; the others are retried."""
        return self in (Status.CONVERGED, Status.MAX_STEPS, Status.DIVERGED)
