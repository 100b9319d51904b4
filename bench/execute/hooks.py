"""What happens after each interval beside checkpoints: recording and display."""

from collections.abc import Callable

from bench.learners.base import Learner
from bench.store.tracker import Tracker


class Recorder:
    """Hands new measurements and outcomes to the tracker.

    Parameters
    ----------
    tracker : Tracker
        The tracker of the learner's cells.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def after_interval(self, learner: Learner) -> None:
        """Log the curves' new points and record the cells that have ended."""
        self.tracker.usage.update()
        log = learner.run_log
        for i, (curve, outcome) in enumerate(zip(log.curves, log.outcomes, strict=True)):
            if not self.tracker.open[i]:
                continue
            for point in curve[len(self.tracker.curves[i]) :]:
                self.tracker.log(i, point)
            if outcome is not None:
                self.tracker.finish(i, outcome.status, outcome.metrics, outcome.weights)


class Progress:
    """Calls a function with the learner."""

    def __init__(self, on_progress: Callable[[Learner], None]) -> None:
        self.on_progress = on_progress

    def after_interval(self, learner: Learner) -> None:
        """Report."""
        self.on_progress(learner)
