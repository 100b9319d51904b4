"""Claims held against recorded runs: our number, the published one, and a verdict in words."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.report.intervals import mean_interval, ratio_interval
from bench.report.report_config import Claim, ReportConfig
from bench.report.tables import Section
from bench.store.results import usable

EXTREMES = {"smallest": "min", "largest": "max"}
UNKNOWN = float("nan")


@dataclass(frozen=True)
class Finding:
    """What recorded runs say about a claim.

    Parameters
    ----------
    claim : Claim
        The claim.
    section : str
        The section of the table that was looked at.
    number, low, high : float
        Our number and its interval, see `bench.report.intervals`; for medians the least and the
        largest. NaN if nothing was measured, or if there is no interval.
    published : float
        The published number; NaN if there is none.
    pairs, expected : int
        How many runs, or pairs, gave the number, of how many.
    units : int
        Of how many independent samples they are.
    """

    claim: Claim
    section: str
    number: float = UNKNOWN
    low: float = UNKNOWN
    high: float = UNKNOWN
    published: float = UNKNOWN
    pairs: int = 0
    expected: int = 0
    units: int = 0

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
        ends = [self.number if np.isnan(end) else end for end in (self.low, self.high)]
        if all(map(self.claim.allows, ends)):
            return "holds"
        outside = ends[1] <= self.claim.above or ends[0] >= self.claim.below
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
        elif self.pairs and np.isnan(self.low):
            reason = "One independent sample only" if self.units == 1 else "A mean is not positive"
            words += f" {reason}: no interval."
        if 0 < self.pairs < self.expected:
            words += f" {self.expected - self.pairs} of {self.expected} are missing."
        return words + self._beside_published()

    def _beside_published(self) -> str:
        if not self.pairs or np.isnan(self.published) or not self.published:
            return ""
        ratio = self.number / self.published
        if self.low <= self.published <= self.high and self.low < self.high:
            return " The published number lies in our interval."
        if abs(ratio - 1) < 0.1:
            return " Within 10 % of the published number."
        return f" {ratio:.2g} times the published number."


def findings(parts: list[Section], config: ReportConfig) -> list[Finding]:
    """Hold every claim of a benchmark against every section of its table that it is about."""
    found = []
    for claim in config.claims:
        named = claim.where.get(config.section)
        columns = [*config.rows, *config.over]
        matching = [part for part in parts if claim.is_about(part.runs.iloc[0], columns)]
        held = [(part, _finding(claim, part, config)) for part in matching]
        # Sections that have ended runs, yet none with this number, are not what the claim is about.
        kept = [finding for part, finding in held if finding.pairs or not usable(part.runs).any()]
        found += kept or [Finding(claim, str(named or ""))] * bool(named or matching)
    return found


def _finding(claim: Claim, part: Section, config: ReportConfig) -> Finding:
    keys = [*config.rows, *config.over]
    where = {name: value for name, value in claim.where.items() if name in keys}
    planned = _matching(part.runs, where)
    pairs = _values(planned[usable(planned)], claim, claim.metric, keys)
    expected = _values(planned.assign(**{claim.metric: 1.0}), claim, claim.metric, keys)
    published = claim.published
    if published is None:
        rows = _matching(part.rows.drop_duplicates([*config.rows]), where)
        known = _values(rows, claim, f"{claim.metric}_published", [*config.rows])
        published = _number(known, claim, config)
    units = _units(pairs, config)
    low, high = _interval(pairs, units, claim, config)
    return Finding(
        claim=claim,
        section=part.title,
        number=_number(pairs, claim, config),
        low=low,
        high=high,
        published=published,
        pairs=len(pairs),
        expected=len(expected),
        units=len(units),
    )


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
    """Return the metric of each run, or of both runs of each pair, indexed by `keys`."""
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
    return values.set_index(keys)[["number"]].dropna()


def _units(pairs: pd.DataFrame, config: ReportConfig) -> pd.DataFrame:
    """Return the means of the pairs of each independent sample."""
    return pairs.groupby(level=config.unit).mean() if config.unit in pairs.index.names else pairs


def _number(pairs: pd.DataFrame, claim: Claim, config: ReportConfig) -> float:
    """Return the number that a claim is about."""
    if pairs.empty:
        return UNKNOWN
    first = pairs.iloc[:, 0]
    if config.summary == "median":
        return float((first / pairs.iloc[:, 1] if claim.ratio else first).median())
    return float(first.mean() / pairs.iloc[:, 1].mean() if claim.ratio else first.mean())


def _interval(
    pairs: pd.DataFrame, units: pd.DataFrame, claim: Claim, config: ReportConfig
) -> tuple[float, float]:
    """Return the interval of the number."""
    if pairs.empty:
        return UNKNOWN, UNKNOWN
    if config.summary == "median":
        values = pairs.iloc[:, 0] / pairs.iloc[:, 1] if claim.ratio else pairs.iloc[:, 0]
        return float(values.min()), float(values.max())
    columns = [units[name].to_numpy() for name in units]
    low, high = ratio_interval(*columns) if claim.ratio else mean_interval(*columns)
    return float(low), float(high)
