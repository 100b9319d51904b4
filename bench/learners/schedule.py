"""Training that is counted in steps: its settings and its schedule."""

from typing import ClassVar, Literal

import numpy as np

from bench.core.settings import Count, Positive, Settings, settings


@settings
class StepsConfig(Settings):
    """Settings of `configs/trainer/steps.yaml`.

    Parameters
    ----------
    max_steps : int
        Steps at most.
    time_limit : float, optional
        Time of gradient flow, the sum of step sizes, at most; to compare step sizes.
    measurements : int
        How many times to measure, beside the start. The measured curves are a result, so that
        another schedule is another run.
    spacing : str
        ``linear`` or ``logarithmic``: how the measurements are spaced over the steps.
    """

    name: ClassVar[str] = "steps"

    max_steps: Count = 20_000
    time_limit: Positive | None = None
    measurements: Count = 200
    spacing: Literal["linear", "logarithmic"] = "linear"

    def schedule(self) -> list[int]:
        """Return the steps after which to measure, rising, the last step among them."""
        shares = np.arange(1, self.measurements + 1) / self.measurements
        steps = self.max_steps * shares if self.spacing == "linear" else self.max_steps**shares
        return sorted({max(round(step), 1) for step in steps})
