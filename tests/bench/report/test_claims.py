"""Claims: the number against numpy and scipy, and each verdict on made-up runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.configuration import benchmarks
from bench.core.errors import UserError
from bench.report.claims import Finding, findings, profiles
from bench.report.report_config import Claim, ReportConfig
from bench.report.tables import markdown, sections


def config(summary="mean", published="", **claim):
    return ReportConfig(
        title="",
        section="data.name",
        rows=("variant", "model.rank"),
        over=("seed",),
        metrics=("train_error",),
        x="model.rank",
        hue="variant",
        summary=summary,
        published=published,
        claims=(Claim(says="A claim.", metric="train_error", **claim),),
    )


def runs(seeds=6):
    draw = np.random.default_rng(0)
    rows = [
        ("mnist", variant, rank, seed, "converged", draw.normal(mean / rank, 0.002), 0.1)
        for variant, mean in (("original", 0.02), ("random_images", 0.09))
        for rank in (1, 2)
        for seed in range(seeds)
    ]
    names = ["data.name", "variant", "model.rank", "seed", "status", "train_error", "constant"]
    return pd.DataFrame(rows, columns=names)


def only(frame, config):
    (finding,) = findings(sections(frame, config), config)
    return finding


RATIO = {"ratio": {"variant": ("original", "random_images")}, "where": {"model.rank": 1}}


def test_a_mean_has_scipy_s_t_interval():
    frame = runs()
    finding = only(
        frame, config(where={"variant": "original", "model.rank": "smallest"}, below=0.03)
    )
    values = frame[(frame.variant == "original") & (frame["model.rank"] == 1)].train_error
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert finding.number == pytest.approx(values.mean())
    assert (finding.low, finding.high) == pytest.approx(tuple(interval))
    assert (finding.outcome, finding.verdict) == ("holds", "Holds.")


def test_a_ratio_is_of_means_over_pairs_and_stands_beside_the_published_one():
    frame = runs()
    finding = only(frame, config(published="tensor_rank.csv", below=0.5, **RATIO))
    means = frame[frame["model.rank"] == 1].groupby("variant").train_error.mean()
    assert finding.number == pytest.approx(means["original"] / means["random_images"])
    assert finding.low < finding.number < finding.high
    known = config(published="tensor_rank.csv").published_values.train_error["mnist"]
    assert finding.published == pytest.approx(known["original", 1] / known["random_images", 1])
    assert finding.pairs == finding.expected == 6


def test_a_median_has_the_range():
    frame = runs(5)
    finding = only(frame, config("median", where={"variant": "original", "model.rank": 2}))
    values = frame[(frame.variant == "original") & (frame["model.rank"] == 2)].train_error
    assert finding.number == values.median()
    assert (finding.low, finding.high) == (values.min(), values.max())


def test_a_share_of_runs_is_held_with_its_exact_interval():
    frame = runs(5)
    frame["train_error"] = [1.0, 0.0] * (len(frame) // 2)
    shares = replace(config("median", above=0.1), proportions=("train_error",))
    finding = only(frame, shares)
    count = len(frame)
    interval = stats.binomtest(count // 2, count).proportion_ci(0.95, "exact")
    assert (finding.number, finding.outcome) == (0.5, "holds")
    assert (finding.low, finding.high) == pytest.approx(tuple(interval))


def test_a_metric_can_be_divided_by_another():
    where = {"variant": "original", "model.rank": 1}
    plain = only(runs(), config(where=where))
    relative = only(runs(), config(where=where, per="constant"))
    assert relative.number == pytest.approx(10 * plain.number)


def test_a_run_that_failed_is_expected_though_it_has_nothing_to_be_divided_by():
    frame = runs()
    frame.loc[0, ["status", "train_error", "constant"]] = ["failed", None, None]
    finding = only(frame, config(where={"variant": "original", "model.rank": 1}, per="constant"))
    assert (finding.pairs, finding.expected) == (5, 6)


def test_a_condition_on_what_sections_may_differ_in_holds_for_each_run():
    frame = runs().assign(**{"model.width": [3, 5] * 12})
    for width in (3, 5):
        held = replace(config(where={"model.width": width}), within=("model.",))
        finding = only(frame, held)
        assert finding.number == frame[frame["model.width"] == width].train_error.mean()


def test_a_ratio_needs_no_setting_that_older_runs_do_not_have():
    held = replace(config(below=0.5, **RATIO), rows=("variant", "model.rank", "data.younger"))
    finding = only(runs().assign(**{"data.younger": np.nan}), held)
    assert finding.pairs == finding.expected == 6


@pytest.mark.parametrize(
    ("number", "low", "high", "outcome", "words"),
    [
        (0.3, 0.2, 0.4, "holds", "Holds."),
        (0.7, 0.6, 0.8, "fails", "Does not hold."),
        (0.4, 0.3, 0.6, "open", "Holds for the number, not for all of its interval."),
        (0.6, 0.4, 0.7, "open", "Does not hold for the number, not for all of its interval."),
        (0.05, -1, 2, "open", "Does not hold for the number, not for all of its interval."),
    ],
)
def test_the_verdict_follows_from_number_and_interval(number, low, high, outcome, words):
    claim = Claim(says="", metric="train_error", above=0.1, below=0.5)
    finding = Finding(claim, "", number, low, high, pairs=5, expected=5)
    assert (finding.outcome, finding.verdict) == (outcome, words)
    assert claim.expects == "above 0.1 and below 0.5"


@pytest.mark.parametrize(
    ("published", "words"),
    [
        (0.35, "The published number lies in our interval."),
        (0.19, "1.6 times the published number."),
        (0.41, "0.73 times the published number."),
    ],
)
def test_the_verdict_says_how_far_the_published_number_is(published, words):
    finding = Finding(
        Claim(says="", metric="train_error", below=0.5), "", 0.3, 0.2, 0.4, published, 5, 5
    )
    assert finding.verdict == f"Holds. {words}"


def test_missing_runs_and_single_runs_are_said():
    frame = runs()
    frame.loc[frame.index[0], "status"] = "failed"
    finding = only(frame, config(below=0.5, **RATIO))
    assert (finding.pairs, finding.expected) == (5, 6)
    assert finding.verdict == "Holds. 1 of 6 are missing."
    assert only(runs(1), config(below=0.5, **RATIO)).verdict == "Holds. One run only: no interval."


def test_what_was_not_run_is_not_measured():
    finding = only(runs(), config(where={"model.rank": 9}, below=0.5))
    assert (finding.outcome, finding.verdict) == ("none", "Not measured yet.")
    assert finding.measured == "-"
    wanted = {"data.name": "digits"}
    assert only(runs(), config(where=wanted, below=0.5)).section == "digits"


def test_a_setting_that_the_claim_is_not_about_is_passed_over():
    frame = runs().assign(**{"model.name": "linear"})
    about = config(where={"model.name": "cp"}, below=0.5)
    assert findings(sections(frame, about), about) == []


def test_a_mean_is_of_independent_units():
    frame = runs().assign(**{"data.target_class": lambda frame: frame.seed // 2})
    shared = {"where": {"variant": "original", "model.rank": 1}, "below": 0.5}
    by_class = replace(config(**shared), over=("data.target_class", "seed"))
    by_class = replace(by_class, unit="data.target_class")
    finding = only(frame, by_class)
    chosen = frame[(frame.variant == "original") & (frame["model.rank"] == 1)]
    means = chosen.groupby("data.target_class").train_error.mean()
    interval = stats.ttest_1samp(means, 0).confidence_interval(0.95)
    assert (finding.low, finding.high) == pytest.approx(tuple(interval))
    assert (finding.pairs, finding.units) == (6, 3)
    alone = only(frame[frame["data.target_class"] == 0], by_class)
    assert alone.verdict == "Holds. One independent sample only: no interval."


def curve(frame, ends):
    """Return curves of 100 epochs that fall linearly from 80 on."""
    points = [(key, epoch, ends[(epoch - 80) // 20]) for key in frame.index for epoch in (80, 100)]
    return pd.DataFrame(points, columns=["run_key", "epoch", "train_error"])


@pytest.mark.parametrize(
    ("change", "ends", "untrained"),
    [
        ({"status": "converged"}, None, False),
        ({"epoch": 1000}, None, False),  # the published number of epochs
        ({}, None, True),
        ({}, (0.021, 0.02), False),  # settled, as far as a twentieth of 0.1
        ({}, (0.026, 0.02), True),  # still falling
        ({}, (0.095, 0.095), True),  # resting where it began
        ({"data.name": "mnist"}, (0.021, 0.02), True),  # published after more epochs
    ],
)
def test_a_claim_about_fits_that_are_not_trained_gets_no_verdict(change, ends, untrained):
    settled = replace(
        config(where={"variant": "original", "model.rank": 1}, published="tensor_rank.csv"),
        reference="constant",
        trained={"epoch": 1000},
        claims=(Claim(says="A claim.", metric="train_error", below=0.5),),
    )
    frame = runs().assign(**{"status": "max_steps", "epoch": 100, "data.name": "digits", **change})
    frame.index = frame.index.astype(str)
    known = curve(frame, ends) if ends else pd.DataFrame()
    (finding,) = findings(sections(frame, settled), settled, known)
    assert (finding.outcome == "untrained") == untrained
    words = "Not trained far enough: 24 of 24 runs neither converged nor trained for long enough."
    assert (words in finding.verdict) == untrained
    assert ("Holds" in finding.verdict) != untrained


def test_dead_fits_and_those_worse_than_the_best_constant_are_counted():
    held = replace(config(below=0.5, **RATIO), reference="constant")
    share = 0.2  # of labels that are 1, so the error of output 0; the best constant's is 0.16
    frame = runs().assign(constant=share * (1 - share))
    frame.loc[frame.index[:2], "train_error"] = [share, 0.3]
    rows = sections(frame, held)[0].rows
    assert (rows.dead.sum(), rows.worse.sum()) == (1, 1)
    assert "2 of 12 runs are no better than the trivial predictor." in only(frame, held).verdict
    assert "(1 with output 0, 1 worse than the trivial" in markdown(sections(frame, held), held)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.95, 1.05, "Equal within 10%."),
        (0.95, 1.2, "Holds for the number, not for all of its interval."),
        (1.2, 1.3, "Not equal within 10%."),
    ],
)
def test_equivalence_needs_the_whole_interval_inside_the_margin(low, high, words):
    ratio = {"variant": ("original", "random_images")}
    claim = Claim(says="", metric="train_error", ratio=ratio, within=0.1)
    number = 1.0 if low < 1 else 1.25
    assert Finding(claim, "", number, low, high, pairs=5, expected=5).verdict == words
    assert claim.expects == "above 0.909 and below 1.1"


def test_a_claim_about_columns_that_no_run_has_is_refused():
    with pytest.raises(UserError, match=r"a claim about model.rnk: A claim.: expected columns"):
        only(runs(), config(where={"model.rnk": 5}))


@pytest.mark.parametrize("name", benchmarks())
def test_the_claims_of_every_benchmark_can_be_read(name):
    known = ReportConfig.of(name)
    for claim in known.claims:
        assert claim.says.endswith(".")
        assert claim.expects
        columns = [*known.columns, "model.name"]
        assert {*claim.where, *claim.ratio} <= {*columns}


def test_a_profile_says_from_where_on_one_variant_is_fitted_better_than_the_others():
    errors = {"original": (0.5, 0.3, 0.1), "random_images": (0.9, 0.6, 0.4)}
    rows = [
        ("mnist", variant, rank, seed, error, "converged")
        for variant, values in errors.items()
        for rank, error in enumerate(values, 1)
        for seed in (0, 1)
    ]
    names = ["data.name", "variant", "model.rank", "seed", "train_error", "status"]
    frame = pd.DataFrame(rows, columns=names)
    profiled = replace(config(), profile="original", claims=())
    (line,) = profiles(sections(frame, profiled), profiled)
    words = (
        "From rank 2 on original is fitted better (train error 0.3) than random images at rank 3"
    )
    assert words in line
    assert "not trained" not in line
    unfinished = frame.assign(status="max_steps")
    (line,) = profiles(sections(unfinished, profiled), profiled)
    assert line.endswith("But 4 of 4 runs there are not trained far enough.")
    worse = frame[(frame.variant != "original") | (frame["model.rank"] == 1)]
    (line,) = profiles(sections(worse, profiled), profiled)
    assert "At no rank is original fitted better than random images at rank 3 (0.4)." in line
