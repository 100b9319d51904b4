"""Acting on a training between its intervals."""

from bench.store.tracker import Tracker


def after_intervals(patch, act):
    """Call `act` with the learner after each interval, once recorded and before any checkpoint."""
    record = Tracker.after_interval

    def after_interval(self, learner):
        record(self, learner)
        act(learner)

    patch.setattr(Tracker, "after_interval", after_interval)
