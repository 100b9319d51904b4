"""Tables, figures and comparisons as pure functions of recorded runs."""

from bench.report.frame import load_runs

__all__ = ["load_runs"]
