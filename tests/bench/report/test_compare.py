"""Paired comparisons against scipy, called directly."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.core.errors import UserError
from bench.report.compare import EXPERIMENT, as_text, beside_published, compare, where
from bench.report.report_config import ReportConfig


def config():
    return ReportConfig(
        title="",
        section="data.name",
        rows=("variant", "model.rank"),
        over=("data.target_class", "seed"),
        metrics=("train_error",),
        x="model.rank",
        hue="variant",
    )


def runs(ranks=(1, 2), classes=range(6), seeds=(0, 1)):
    draw = np.random.default_rng(0)
    rows = [
        ("digits", variant, rank, target, seed, "max_steps", draw.normal(mean, 0.01))
        for variant, mean in (("random_images", 0.08), ("original", 0.01), ("random_labels", 0.09))
        for rank in ranks
        for target in classes
        for seed in seeds
    ]
    names = ["data.name", "variant", "model.rank", "data.target_class", "seed", "status"]
    return pd.DataFrame(rows, columns=[*names, "train_error"])


def test_numbers_are_scipy_s():
    frame = runs()
    result = compare(frame, config(), "variant", "train_error")
    names = ["random_images vs original", "random_labels vs original"]
    assert result.comparison.tolist() == names * 2
    keys = ["data.target_class", "seed"]
    chosen = frame[frame["model.rank"] == 1]
    first, other = (
        chosen[chosen.variant == variant].sort_values(keys).train_error.to_numpy()
        for variant in ("original", "random_images")
    )
    row = result.iloc[0]
    assert (row.pairs, row.units) == (12, 12)
    assert row.difference == pytest.approx((other - first).mean())
    interval = stats.ttest_rel(other, first).confidence_interval(0.95)
    assert (row.difference_low, row.difference_high) == pytest.approx(tuple(interval))
    assert row.ratio == pytest.approx(other.mean() / first.mean())
    assert row.ratio_low < row.ratio < row.ratio_high
    assert row.p_exact == 2.0**-11  # all of the differences have one sign
    many = compare(runs(classes=range(8)), config(), "variant", "train_error")
    assert many.p_exact.isna().all()  # 2^16 patterns of signs
    assert result.p.to_numpy() == pytest.approx(stats.false_discovery_control(raw_p(frame)))


def raw_p(frame, ranks=(1, 2), names=("random_images", "random_labels")):
    keys, raw = ["data.target_class", "seed"], []
    for rank in ranks:
        group = frame[frame["model.rank"] == rank]
        wide = group.pivot(index=keys, columns="variant", values="train_error")
        raw += [stats.ttest_rel(wide[name], wide["original"]).pvalue for name in names]
    return raw


def test_numbers_are_those_of_the_units_means():
    frame, by_class = runs(), replace(config(), unit="data.target_class")
    row = compare(frame, by_class, "variant", "train_error").iloc[0]
    chosen = frame[frame["model.rank"] == 1]
    means = chosen.groupby(["data.target_class", "variant"]).train_error.mean().unstack()
    test = stats.ttest_rel(means["random_images"], means["original"])
    ends = tuple(test.confidence_interval(0.95))
    assert (row.pairs, row.units) == (12, 6)
    assert (row.difference_low, row.difference_high) == pytest.approx(ends)
    assert row.difference == pytest.approx((means["random_images"] - means["original"]).mean())
    assert row.p_exact == pytest.approx(2**-5)  # all six differences have one sign


def test_families_are_corrected_apart_and_do_not_depend_on_what_is_shown():
    two = pd.concat([runs(), runs().assign(**{"data.name": "mnist"})], ignore_index=True)
    alone = compare(runs(), config(), "variant", "train_error").p.tolist()
    assert compare(two, config(), "variant", "train_error").p.tolist() == pytest.approx(alone * 2)
    shown = compare(two, config(), "variant", "train_error", None, ["model.rank=2"])
    assert shown.p.tolist() == pytest.approx(alone[2:] * 2)
    apart = replace(config(), families=({"model.rank": [1, 3], "by": "variant"},))
    split = compare(runs(), apart, "variant", "train_error").p.to_numpy()
    expected = [stats.false_discovery_control(raw_p(runs(), [rank])) for rank in (1, 2)]
    assert split == pytest.approx(np.concatenate(expected))


def test_one_pair_has_a_difference_and_no_interval():
    row = compare(runs(classes=[0], seeds=[0]), config(), "variant", "train_error").iloc[0]
    assert (row.pairs, row.refused) == (1, "")
    assert row[["difference_low", "ratio_high", "p", "p_exact"]].isna().all()
    text, _ = as_text(row.to_frame().T, config())
    assert text["first - second [95 %]"].tolist() == [f"{row.difference:.4g}"]


def test_another_reference_turns_the_comparison_round():
    there = compare(runs(), config(), "variant", "train_error", reference="random_images")
    row = there[there.comparison == "original vs random_images"].iloc[0]
    back = compare(runs(), config(), "variant", "train_error").iloc[0]
    assert row.difference == pytest.approx(-back.difference)
    ends = (1 / back.ratio_high, 1 / back.ratio, 1 / back.ratio_low)
    assert (row.ratio_low, row.ratio, row.ratio_high) == pytest.approx(ends)


@pytest.mark.parametrize(
    ("value", "written"),
    [(True, "true"), (True, "True"), (0.005, "5e-3"), (40, "40.0"), (np.nan, "null")],
)
def test_a_value_is_found_however_an_override_would_write_it(value, written):
    frame = runs().astype({"model.rank": object})
    frame.loc[frame.variant == "original", "model.rank"] = value
    assert set(where(frame, [f"model.rank={written}"]).variant) == {"original"}
    assert set(where(frame, ["model.rank=2"])["model.rank"]) == {2}


def test_a_reference_is_found_however_an_override_would_write_it():
    frame = runs().replace({"model.rank": {1: 0.005}})
    first, second = (
        compare(frame, config(), "model.rank", "train_error", reference=word).difference
        for word in ("5e-3", 0.005)
    )
    assert (first == second).all()


def test_missing_pairs_are_refused_with_a_reason():
    frame = runs()
    frame.loc[frame.index[0], "status"] = "failed"
    result = compare(frame, config(), "variant", "train_error")
    refused = result[result.comparison == "random_images vs original"]
    assert refused.refused.tolist() == ["1 of 12 pairs are missing", ""]
    assert refused.difference.isna().tolist() == [True, False]


def test_a_difference_that_never_varies_has_no_p_value():
    frame = runs()
    frame["train_error"] = np.where(frame.variant == "original", 0.25, 0.5) + 0.1 * frame.seed
    row = compare(frame, config(), "variant", "train_error").iloc[0]
    assert tuple(row[["difference", "difference_low", "difference_high"]]) == pytest.approx(
        (0.25,) * 3
    )
    assert np.isnan(row.p)


def test_other_settings_have_their_own_rows():
    frame = pd.concat([runs().assign(**{"data.levels": level}) for level in (2, 3)])
    frame.insert(0, "optimizer.lr", 0.1)
    result = compare(frame, config(), "variant", "train_error")
    assert len(result) == 8
    assert result["data.levels"].tolist() == [2, 3] * 4


def test_a_factor_goes_by_its_last_name_where_that_is_the_only_one():
    frame = runs()
    whole = compare(frame, config(), "model.rank", "train_error")
    pd.testing.assert_frame_equal(compare(frame, config(), "rank", "train_error"), whole)
    frame["data.rank"] = frame["model.rank"]
    with pytest.raises(UserError, match="--by rank"):
        compare(frame, config(), "rank", "train_error")


@pytest.mark.parametrize(
    ("factor", "metric", "message"),
    [
        ("colour", "train_error", "variant"),
        ("variant", "loss", "train_error"),
        ("data.name", "train_error", "at least two"),
        ("optimizer", "train_error", "variant"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(factor, metric, message):
    with pytest.raises(UserError, match=message):
        compare(runs(), config(), factor, metric)


def test_where_keeps_the_runs_that_fit_and_refuses_what_is_not_recorded():
    assert set(where(runs(), ["model.rank=2"])["model.rank"]) == {2}
    some = runs().astype({"model.rank": float})  # as where other runs have none
    assert set(where(some, ["model.rank=2"])["model.rank"]) == {2}
    with pytest.raises(UserError, match="1, 2"):
        where(runs(), ["model.rank=7"])
    with pytest.raises(UserError, match=r"model\.rank"):
        where(runs(), ["rank=1"])


def published():
    """Return runs on MNIST, for which values are published, and their specification."""
    frame = runs().assign(**{"data.name": "mnist", "trainer.max_epochs": 100})
    return frame, replace(config(), published="tensor_rank.csv")


def against_published(frame, known):
    both = beside_published(frame, known, "train_error")
    return compare(both, known, EXPERIMENT, "train_error", "published")


def test_ours_against_published_is_scipy_s_one_sample_test():
    frame, known = published()
    result = against_published(frame, known)
    assert len(result) == 6
    raw = []
    for _, row in result.iterrows():
        key = ("mnist", row["variant"], row["model.rank"])
        value = known.published_values.loc[key, "train_error"]
        mine = frame[(frame.variant == row["variant"]) & (frame["model.rank"] == row["model.rank"])]
        test = stats.ttest_1samp(mine.train_error, value)
        raw.append(test.pvalue)
        assert row.difference == pytest.approx(mine.train_error.mean() - value)
        interval = test.confidence_interval(0.95)
        ends = (row.difference_low + value, row.difference_high + value)
        assert ends == pytest.approx(tuple(interval))
        assert row.effect_size == pytest.approx(row.difference / mine.train_error.std())
    assert result.p.to_numpy() == pytest.approx(stats.false_discovery_control(raw))


def test_published_comparisons_are_refused_where_runs_are_missing():
    frame, known = published()
    frame.loc[frame.index[0], "status"] = "failed"
    refused = against_published(frame, known).query("refused != ''")
    assert refused.refused.tolist() == ["1 of 12 pairs are missing"]
    assert refused.comparison.tolist() == ["ours vs published"]


def test_what_nobody_published_is_refused():
    frame, known = published()
    with pytest.raises(UserError, match="a setting for which values are published"):
        beside_published(frame, replace(known, published_for={"data.levels": 2}), "train_error")
    with pytest.raises(UserError, match="expected one of train_error"):
        beside_published(frame.assign(loss=0.0), known, "loss")


def two_models():
    """Return runs of two kinds of models, whose other settings are not the same either."""
    frame = runs(ranks=[1])
    frame = frame[frame.variant == "original"].assign(**{"data.levels": 2})
    cp = frame.assign(**{"model.name": "cp", "optimizer.lr": 0.1})
    linear = frame.assign(**{"model.name": "linear", "train_error": frame.train_error + 1})
    return pd.concat([cp, cp.assign(**{"optimizer.lr": 0.2}), linear], ignore_index=True)


def test_two_models_are_paired_by_what_must_agree_and_differences_are_named():
    result = compare(two_models(), config(), "model", "train_error")
    assert result.comparison.tolist() == ["linear vs cp"] * 2
    assert result["optimizer.lr"].tolist() == ["- vs 0.1", "- vs 0.2"]
    assert result.difference.tolist() == pytest.approx([1.0, 1.0])
    text, same = as_text(result, config())
    assert text.settings.tolist() == ["lr - vs 0.1", "lr - vs 0.2"]
    assert same == "In every row: data.name digits, variant original, model.rank 1."


def test_a_group_stands_for_all_settings_in_which_runs_differ():
    frame = runs(ranks=[1])
    frame = frame[frame.variant == "original"].assign(**{"regularizer.name": "published"})
    keys = ["regularizer.coefficient", "regularizer.every", "regularizer.frozen"]
    forms = [(0.0, 1, False), (1.0, 1, False), (1.0, 4, True)]
    each = [frame.assign(**dict(zip(keys, form, strict=True))) for form in forms]
    for more, form in enumerate(each):
        form["train_error"] += more
    every = replace(config(), rows=("variant", "model.rank", "regularizer.coefficient"))
    result = compare(pd.concat(each), every, "regularizer", "train_error")
    plain = "coefficient 0; every 1"
    assert result.comparison.tolist() == [
        f"coefficient 1; every 1 vs {plain}",
        f"coefficient 1; every 4; frozen vs {plain}",
    ]
    assert result.difference.tolist() == pytest.approx([1.0, 2.0])
    alone = compare(pd.concat(each[:2]), every, "regularizer", "train_error")
    assert alone.comparison.tolist() == ["1.0 vs 0.0"]  # they differ in the coefficient alone
    with pytest.raises(UserError, match="--by regularizer with one recorded setting"):
        compare(each[0], every, "regularizer", "train_error")


def test_settings_are_shown_where_a_pair_differs_or_rows_are_told_apart():
    frame = two_models()
    cp = frame["model.name"] == "cp"
    frame["optimizer.lr"] = np.where(cp, 0.1, np.nan)
    frame["trainer.max_epochs"] = np.where(cp, 40, 190)
    mirrored = frame.assign(**{"learner.mirror": True, "train_error": frame.train_error + 0.5})
    both = pd.concat([frame.assign(**{"learner.mirror": False}), mirrored], ignore_index=True)
    result = compare(both.drop_duplicates(), config(), "model", "train_error")
    text, same = as_text(result, config())
    assert same.startswith("In every row: data.name digits, variant original, model.rank 1,")
    assert "optimizer.lr - vs 0.1, trainer.max_epochs 190 vs 40" in same
    values = ["False", "True vs False", "False vs True", "True"]
    assert text.settings.tolist() == [f"mirror {value}" for value in values]
    result["optimizer.lr"] = ["0.1", "0.1 vs 0.2", "0.1", "0.1"]  # one value alone is no news
    text, _ = as_text(result, config())
    assert text.settings.str.contains("lr").tolist() == [False, True, False, False]
    result["data.lr"] = "0.3 vs 0.4"  # another setting whose last word is the same
    text, _ = as_text(result[result.index == 1], config())
    assert text.settings.tolist() == [
        "lr 0.1 vs 0.2, epochs 190 vs 40, mirror True vs False, lr 0.3 vs 0.4"
    ]
    nothing = as_text(result.iloc[:0], config())[0]
    assert len(nothing) == 0


def test_a_setting_is_compared_with_its_absence_if_it_has_one_value():
    frame = runs(ranks=[1])
    frame = frame[frame.variant == "original"]
    mirrored = frame.assign(**{"learner.mirror": True, "train_error": frame.train_error + 0.5})
    both = pd.concat([frame.assign(**{"learner.mirror": None}), mirrored], ignore_index=True)
    result = compare(both, config(), "learner.mirror", "train_error")
    assert result.comparison.tolist() == ["True vs -"]
    assert result.difference.tolist() == pytest.approx([0.5])
    assert "settings" not in as_text(result, config())[0]  # there is nothing to say
    with pytest.raises(UserError, match="at least two"):
        compare(mirrored, config(), "learner.mirror", "train_error")


def test_a_benchmark_says_what_must_agree():
    frame = two_models()
    frame["model.rank"] = np.where(frame["model.name"] == "cp", 5, 1)
    with pytest.raises(UserError, match=r"agree in these columns"):
        compare(frame, config(), "model.name", "train_error")
    free = replace(config(), agree=("data.name", "data.target_class", "seed"))
    result = compare(frame, free, "model.name", "train_error")
    assert result["model.rank"].tolist() == ["1 vs 5"] * 2


def test_pairs_are_of_what_both_sides_have_planned():
    frame = two_models()
    short = frame[(frame["model.name"] == "cp") | (frame.seed == 0)]
    result = compare(short, config(), "model.name", "train_error")
    assert result[["pairs", "refused"]].to_numpy().tolist() == [[6, ""]] * 2
