"""Claims held against recorded runs: our number, the published one, and a verdict in words."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.core.errors import require
from bench.core.status import Status
from bench.report.intervals import estimate, unit_means
from bench.report.report_config import Claim, ReportConfig, in_words
from bench.report.tables import Section, matching, poor_fits, references, resolved
from bench.store.results import numbers, usable

UNKNOWN = float("nan")
Curves = pd.DataFrame | None  # of all runs, where they are known
# A fit's error has settled if it fell by less than SETTLED of the trivial predictor's during the
# last LATE of its epochs, and lies below LEFT of it: a fit may also rest before it begins to learn.
SETTLED, LATE, LEFT = 0.05, 0.2, 0.9


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
    runs, untrained, poor : int
        How many runs the claim is about; how many of them are not trained far enough, see
        `trained`; and how many have output 0 or are worse than the trivial predictor.
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
    runs: int = 0
    untrained: int = 0
    poor: int = 0

    @property
    def measured(self) -> str:
        """Our number and its interval, as text."""
        if not self.pairs:
            return "-"
        interval = f" [{self.low:.3g}, {self.high:.3g}]" if self.low < self.high else ""
        return f"{self.number:.3g}{interval}"

    @property
    def outcome(self) -> str:
        """One of ``none``, ``untrained``, ``holds``, ``fails``, ``open`` (part of the interval)."""
        if not self.pairs or self.untrained:
            return "untrained" if self.pairs else "none"
        ends = [self.number if np.isnan(end) else end for end in (self.low, self.high)]
        if all(map(self.claim.allows, ends)):
            return "holds"
        above, below = self.claim.bounds
        return "fails" if ends[1] <= above or ends[0] >= below else "open"

    @property
    def verdict(self) -> str:
        """The outcome in words, and how far our number is from the published one."""
        inside, equal = self.claim.allows(self.number), self.claim.within
        words = {
            "none": "Not measured yet.",
            "untrained": f"Not trained far enough: {self.untrained} of {self.runs} runs neither"
            " converged nor trained for long enough.",
            "holds": f"Equal within {equal:.0%}." if equal else "Holds.",
            "fails": f"Not equal within {equal:.0%}." if equal else "Does not hold.",
            "open": f"{'Holds' if inside else 'Does not hold'} for the number, not for all of its"
            " interval.",
        }[self.outcome]
        if self.pairs == 1 and not self.low < self.high:
            words += " One run only: no interval."
        elif self.pairs and np.isnan(self.low):
            reason = "One independent sample only" if self.units == 1 else "A mean is not positive"
            words += f" {reason}: no interval."
        if 0 < self.pairs < self.expected:
            words += f" {self.expected - self.pairs} of {self.expected} are missing."
        if self.poor:
            words += f" {self.poor} of {self.runs} runs are no better than the trivial predictor."
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


def findings(parts: list[Section], config: ReportConfig, curves: Curves = None) -> list[Finding]:
    """Hold every claim of a benchmark against every section of its table that it is about."""
    found = []
    known = {str(name) for part in parts for name in part.runs}
    for claim in config.claims:
        given = f"a claim about {', '.join({*claim.where, *claim.ratio} - known)}: {claim.says}"
        require({*claim.where, *claim.ratio} <= known, given, "columns of the recorded runs")
        named = claim.where.get(config.section)
        keys = {*config.rows, *config.over}
        setting = {name: value for name, value in claim.where.items() if name not in keys}
        matched = [part for part in parts if len(matching(part.runs, setting))]
        held = [(part, _finding(claim, part, config, curves)) for part in matched]
        # Sections that have ended runs, yet none with this number, are not what the claim is about.
        kept = [finding for part, finding in held if finding.pairs or not usable(part.runs).any()]
        found += kept or [Finding(claim, str(named or ""))] * bool(named or matched)
    return found


def outcomes(parts: list[Section], config: ReportConfig, curves: Curves = None) -> list[str]:
    """Return a line per finding, with section, number and verdict, and per profile."""
    lines = []
    for found in findings(parts, config, curves):
        section = f" {found.section}:" if found.section else ""
        number = f" {found.measured}." if found.pairs else ""
        lines.append(f"{found.claim.says}{section}{number} {found.verdict}")
    return lines + profiles(parts, config, curves)


def profiles(parts: list[Section], config: ReportConfig, curves: Curves = None) -> list[str]:
    """Return, for each section, from which `x` on the profiled value is fitted better than others.

    Better than all other values of `hue` at the largest `x`, by the mean of the first metric.
    """
    metric, x, hue, found = config.metrics[0], config.x, config.hue, []
    for part in parts if config.profile else ():
        rows = part.rows.dropna(subset=metric).sort_values(x)
        own, others = rows[rows[hue] == config.profile], rows[rows[hue] != config.profile]
        others = others[others[x] == rows[x].max()].sort_values(metric)
        if own.empty or others.empty:
            continue
        best = others.iloc[0]
        rival = f"{in_words(best[hue])} at {config.words(x, best[x])} ({best[metric]:.3g})"
        better = own[own[metric] < best[metric]]
        text = f"At no {config.label(x)} is {in_words(config.profile)} fitted better than {rival}."
        if len(better):
            first = better.iloc[0]
            error = f"{config.label(metric)} {first[metric]:.3g}"
            text = f"From {config.words(x, first[x])} on {in_words(config.profile)} is fitted"
            text += f" better ({error}) than {rival}."
        last = part.runs[usable(part.runs) & (part.runs[x] == best[x])]
        untrained = int((~trained(part, config, curves)[last.index]).sum())
        if untrained:
            text += f" But {untrained} of {len(last)} runs there are not trained far enough."
        found.append(f"{part.title}: {text}")
    return found


def trained(part: Section, config: ReportConfig, curves: Curves = None) -> pd.Series:
    """Return which runs of a section are trained far enough for a claim.

    Those that converged; that reached one of the values of `config.trained`, such as the published
    number of epochs; or, where nothing is published for the section, whose error has settled: it
    lies below 9/10 of the trivial predictor's, of which it fell by less than 5 % during the last
    fifth of the recorded curve.
    """
    runs = part.runs
    done = runs.status == Status.CONVERGED
    for name, least in config.trained.items():
        done |= numbers(runs, name) >= least
    published = part.rows[[f"{metric}_published" for metric in config.metrics]]
    error = config.compared
    if published.notna().any(axis=None) or curves is None or error not in curves:
        return done
    own = curves[curves.run_key.isin(runs.index)]
    step = "epoch" if "epoch" in own else "iteration"
    last = pd.Series(own.groupby("run_key")[step].transform("max"), dtype=float)
    late = own[own[step] >= (1 - LATE) * last]
    ends = late.sort_values(step).groupby("run_key")[error].agg(["first", "last"])
    ends, trivial = ends.reindex(runs.index), references(runs, config)
    fallen = ends["first"] - ends["last"]
    return done | ((fallen < SETTLED * trivial) & (ends["last"] < LEFT * trivial))


def _finding(claim: Claim, part: Section, config: ReportConfig, curves: Curves) -> Finding:
    keys = [*config.rows, *config.over]
    planned = matching(part.runs, claim.where)
    good = planned[usable(planned)]
    pairs = _values(good, claim, claim.metric, keys)
    ones = {name: 1.0 for name in (claim.metric, claim.per) if name}
    expected = _values(planned.assign(**ones), claim, claim.metric, keys)
    published = claim.published
    if published is None:
        where = {name: value for name, value in claim.where.items() if name in keys}
        rows = matching(part.rows, where)
        known = _values(rows, claim, f"{claim.metric}_published", [config.section, *config.rows])
        published = estimate(known, config, claim.metric)[0]
    # Of a ratio, the runs with one of its two values.
    for factor, ends in claim.ratio.items():
        good = good[good[factor].isin([resolved(good[factor], end) for end in ends])]
    good = good[good[claim.metric].notna()] if len(pairs) else good
    counts = len(pairs), len(expected), len(unit_means(pairs, config.unit)), len(good)
    untrained = int((~trained(part, config, curves)[good.index]).sum())
    poor = int(poor_fits(good, config).any(axis="columns").sum())
    found = estimate(pairs, config, claim.metric)
    return Finding(claim, part.title, *found, published, *counts, untrained, poor)


def _values(frame: pd.DataFrame, claim: Claim, metric: str, keys: list[str]) -> pd.DataFrame:
    """Return the metric of each run, or of both runs of each pair, indexed by `keys`."""
    if frame.empty or not {metric, claim.per or metric, *claim.ratio} <= {*frame}:
        return pd.DataFrame()
    values = frame.assign(number=frame[metric] / (frame[claim.per] if claim.per else 1.0))
    for factor, ends in claim.ratio.items():
        chosen = [resolved(frame[factor], end) for end in ends]
        if chosen[0] == chosen[1]:
            return pd.DataFrame()
        index = [name for name in keys if name != factor]
        wide = values.groupby([*index, factor], dropna=False).number.first().unstack()
        return wide.reindex(columns=chosen).dropna()
    return values.set_index(keys)[["number"]].dropna()
