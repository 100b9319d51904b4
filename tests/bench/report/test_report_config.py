"""What a benchmark's report may say, and how it is refused otherwise."""

import pytest

from bench import configuration
from bench.configuration import add_folder
from bench.core.errors import UserError
from bench.core.settings import TRUSTED, resolve, validate
from bench.report.report_config import Claim, ReportConfig

REPORT = {
    "title": "A title.",
    "section": "data.name",
    "rows": ["variant", "model.rank"],
    "over": ["data.target_class", "seed"],
    "metrics": ["train_error"],
    "x": "model.rank",
    "hue": "variant",
}
BENCHMARK = """\
# @package _global_
benchmark:
  name: mine
  axes: {seed: [0]}
  report:
    title: Mine.
    section: data.name
    rows: [variant]
    over: [seed]
    metrics: [train_error]
    x: variant
    hue: variant
    plot: my_figures.plot
    published: mine.csv
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"titel": "?"}, "benchmark.report.titel: expected one of title, .*did you mean title"),
        ({"claims": [{"says": "?", "metric": "m", "belo": 1}]}, r"benchmark.report.claims.0.belo"),
        ({"claims": [{"says": "?"}]}, r"benchmark.report.claims.0.metric: expected a value"),
        ({"claims": [{"says": "?", "metric": "m", "ratio": {"a": [1]}}]}, "ratio"),
        ({"claims": [{"says": "?", "metric": "m", "ratio": {"a": [1, 2], "b": [1, 2]}}]}, "one f"),
        ({"summary": "mode"}, "benchmark.report.summary='mode': expected 'mean' or 'median'"),
        ({"unit": "model.rank"}, "benchmark.report.unit=model.rank: expected one of data.target"),
        ({"x": "seed"}, "benchmark.report.x=seed: expected one of data.name, variant, model.rank"),
        ({"rows": "variant"}, "benchmark.report.rows"),
        ({"families": [{"by": "variant"}, {"by": ["variant", "seed"]}]}, "overlap: expected a col"),
        ({"families": [{"by": "variant"}, {"model.rank": 1}]}, "families .*, which overlap"),
        ({"claims": [{"says": "?", "metric": "m", "within": 0.1}]}, "within=0.1: expected a ratio"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(change, message):
    with pytest.raises(UserError, match=message) as error:
        validate(ReportConfig, {**REPORT, **change}, "benchmark.report")
    assert "\n" not in str(error.value)


def test_claims_are_typed():
    claim = {"says": "A claim.", "metric": "m", "ratio": {"variant": ["a", "b"]}, "below": 1}
    config = validate(ReportConfig, {**REPORT, "claims": [claim]}, "benchmark.report")
    expected = Claim(says="A claim.", metric="m", ratio={"variant": ("a", "b")}, below=1.0)
    assert config.claims == (expected,)


@pytest.mark.parametrize("plot", ["bench.report.nothing.plot", "bench.report.figures.no", "plot"])
def test_a_figure_that_does_not_exist_is_named(plot):
    config = validate(ReportConfig, {**REPORT, "plot": plot}, "benchmark.report")
    with pytest.raises(UserError, match=f"benchmark.report.plot='{plot}': expected") as error:
        resolve(config.plot, "benchmark.report.plot")
    assert "\n" not in str(error.value)


def test_a_folder_of_one_s_own_brings_its_figure_and_its_published_values(tmp_path, monkeypatch):
    monkeypatch.setattr(configuration, "FOLDERS", [*configuration.FOLDERS])
    monkeypatch.setattr("bench.core.settings.TRUSTED", [*TRUSTED])
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "benchmark").mkdir()
    (tmp_path / "benchmark/mine.yaml").write_text(BENCHMARK)
    (tmp_path / "my_figures.py").write_text("def plot(parts, config, results):\n    return 'mine'")
    add_folder(tmp_path)
    with pytest.raises(UserError, match=r"benchmark\.report\.published=mine\.csv"):
        ReportConfig.of("mine")
    (tmp_path / "mine.csv").write_text("data.name,variant,train_error\ndigits,original,0.5\n")
    config = ReportConfig.of("mine")
    assert config.published_values.loc[("digits", "original"), "train_error"] == 0.5
    assert resolve(config.plot)([], config, None) == "mine"


def test_a_benchmark_without_a_report_has_none():
    with pytest.raises(UserError, match="the benchmark single: expected one with a key"):
        ReportConfig.of("single")
