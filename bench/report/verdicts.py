"""Claims held against recorded runs: our number, the published one, and a verdict in words."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from bench.errors import require
from bench.report.compare import CONFIDENCE, ratio_interval
from bench.report.frame import usable
from bench.report.spec import ReportSpec
from bench.report.tables import Section

EXTREMES = {"smallest": "min", "largest": "max"}


@dataclass
class Claim:
    """One entry of `benchmark.report.claims`: a number and the interval that it must lie in.

    Parameters
    ----------
    says : str
        The claim in a sentence.
    metric : str
        The metric that it speaks of.
    where : dict
        The runs that it speaks of: columns and their values; ``smallest`` and ``largest`` stand for
        the extreme ones among the runs. A column that is not one of the table names the setting.
    ratio : dict
        A factor and two of its values: the number is the metric at the first over that at the
        second, over pairs of runs that are equal otherwise.
    per : str
        A metric by which the metric is divided, run by run.
    above, below : float
        What the number must lie between.
    published : float
        The published number, or the one that theory gives; without it, the same number is made of
        the table's published values.
    """

    says: str
    metric: str
    where: dict[str, Any] = field(default_factory=dict)
    ratio: dict[str, list[Any]] = field(default_factory=dict)
    per: str = ""
    above: float = -np.inf
    below: float = np.inf
    published: float | None = None

    def __post_init__(self) -> None:
        ok = all(len(values) == 2 for values in self.ratio.values()) and len(self.ratio) < 2
        require(ok, f"a claim's ratio={self.ratio}", "one factor with a list of two values")

    @property
    def expects(self) -> str:
        """The interval that is claimed, in words."""
        bounds = {"above": self.above, "below": self.below}
        return " and ".join(f"{name} {b:g}" for name, b in bounds.items() if np.isfinite(b))

    def allows(self, number: float) -> bool:
        """Return whether a number is as claimed."""
        return bool(self.above < number < self.below)

    def speaks_of(self, part: Section, spec: ReportSpec) -> bool:
        """Return whether a section is in the setting that `where` names."""
        first = part.runs.iloc[0]
        apart = [name for name in self.where if name not in [*spec.rows, *spec.over]]
        return all(first.get(name) == self.where[name] for name in apart)


@dataclass
class Finding:
    """What recorded runs say of a claim.

    Parameters
    ----------
    claim : Claim
        The claim.
    section : str
        The table's section that was looked at.
    number, low, high : float
        Our number and its interval: for means a t interval, for ratios of means a bootstrap one,
        both 95 %; for medians the least and the largest. NaN if nothing was measured.
    published : float
        The published number; NaN if there is none.
    pairs, expected : int
        How many runs, or pairs, gave the number, of how many.
    """

    claim: Claim
    section: str
    number: float
    low: float
    high: float
    published: float
    pairs: int
    expected: int

    @property
    def measured(self) -> str:
        """Our number and its interval, as text."""
        if not self.pairs:
            return "-"
        interval = f" [{self.low:.3g}, {self.high:.3g}]" if self.low < self.high else ""
        return f"{self.number:.3g}{interval}"

    @property
    def outcome(self) -> str:
        """One of ``holds``, ``fails``, ``open`` (part of the interval is as claimed), ``none``."""
        if not self.pairs:
            return "none"
        if self.claim.allows(self.low) and self.claim.allows(self.high):
            return "holds"
        outside = self.high <= self.claim.above or self.low >= self.claim.below
        return "fails" if outside else "open"

    @property
    def verdict(self) -> str:
        """The outcome in words, and how far our number is from the published one."""
        inside = self.claim.allows(self.number)
        words = {
            "none": "Not measured yet.",
            "holds": "Holds.",
            "fails": "Does not hold.",
            "open": f"{'Holds' if inside else 'Does not hold'} for the number, not for all of its"
            " interval.",
        }[self.outcome]
        if self.pairs == 1:
            words += " One run only: no interval."
        if 0 < self.pairs < self.expected:
            words += f" {self.expected - self.pairs} of {self.expected} are missing."
        return words + self._beside_published()

    def _beside_published(self) -> str:
        if not self.pairs or self.published != self.published or not self.published:
            return ""
        ratio = self.number / self.published
        if self.low <= self.published <= self.high and self.low < self.high:
            return " The published number lies in our interval."
        if abs(ratio - 1) < 0.1:
            return " Within 10 % of the published number."
        return f" {ratio:.2g} times the published number."


def findings(parts: list[Section], spec: ReportSpec) -> list[Finding]:
    """Hold every claim of a benchmark against every section of its table that it speaks of."""
    found = []
    for claim in (Claim(**values) for values in spec.claims):
        named = claim.where.get(spec.section)
        matching = [part for part in parts if claim.speaks_of(part, spec)]
        held = [(part, _finding(claim, part, spec)) for part in matching]
        # Sections that have ended runs, yet none with this number, are not what the claim is about.
        held = [one for part, one in held if one.pairs or not usable(part.runs).any()]
        nan = float("nan")
        nothing = Finding(claim, str(named or ""), nan, nan, nan, nan, 0, 0)
        found += held or [nothing] * bool(named or matching)
    return found


def _finding(claim: Claim, part: Section, spec: ReportSpec) -> Finding:
    where = {name: v for name, v in claim.where.items() if name in [*spec.rows, *spec.over]}
    planned = _matching(part.runs, where)
    pairs = _values(planned[usable(planned)], claim, claim.metric, [*spec.rows, *spec.over])
    number, low, high = _number(pairs, claim, spec)
    expected = _values(planned.assign(**{claim.metric: 1.0}), claim, claim.metric,
                       [*spec.rows, *spec.over])  # fmt: skip
    published = claim.published
    if published is None:
        rows = _matching(part.rows.drop_duplicates(spec.rows), where)
        known = _values(rows, claim, f"{claim.metric}_published", spec.rows)
        published = _number(known, claim, spec)[0]
    return Finding(claim, part.title, number, low, high, published, len(pairs), len(expected))


def _matching(frame: pd.DataFrame, where: dict[str, Any]) -> pd.DataFrame:
    """Return the rows for which all conditions hold; none if a column does not exist."""
    for name, value in where.items():
        if name not in frame:
            return frame.iloc[:0]
        frame = frame[frame[name] == _resolved(frame[name], value)]
    return frame


def _resolved(values: pd.Series, value: Any) -> Any:
    return getattr(values, EXTREMES[value])() if value in EXTREMES else value


def _values(frame: pd.DataFrame, claim: Claim, metric: str, keys: list[str]) -> pd.DataFrame:
    """Return the metric of each run, or of both runs of each pair, as one or two columns."""
    if frame.empty or not {metric, claim.per or metric, *claim.ratio} <= {*frame}:
        return pd.DataFrame()
    values = frame.assign(number=frame[metric] / (frame[claim.per] if claim.per else 1.0))
    for factor, ends in claim.ratio.items():
        chosen = [_resolved(frame[factor], end) for end in ends]
        if chosen[0] == chosen[1]:
            return pd.DataFrame()
        index = [name for name in keys if name != factor]
        wide = values.pivot_table(index=index, columns=factor, values="number", aggfunc="first")
        return wide.reindex(columns=chosen).dropna()
    return values[["number"]].dropna()


def _number(pairs: pd.DataFrame, claim: Claim, spec: ReportSpec) -> tuple[float, float, float]:
    """Return the number that a claim speaks of, and its interval."""
    if pairs.empty:
        return float("nan"), float("nan"), float("nan")
    columns = [pairs[name].to_numpy() for name in pairs]
    if spec.summary == "median":
        each = columns[0] / columns[1] if claim.ratio else columns[0]
        return float(np.median(each)), float(each.min()), float(each.max())
    if claim.ratio:
        return float(columns[0].mean() / columns[1].mean()), *ratio_interval(*columns)
    mean, error = float(columns[0].mean()), stats.sem(columns[0]) if len(pairs) > 1 else 0.0
    if not error > 0:
        return mean, mean, mean
    low, high = stats.t.interval(CONFIDENCE, len(pairs) - 1, mean, error)
    return mean, float(low), float(high)
