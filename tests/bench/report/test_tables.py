"""Tables from a small hand-made set of runs; the golden text has been read."""

from dataclasses import replace
from io import StringIO

import pandas as pd
import pytest
from made_up import record_of

from bench.core.errors import UserError
from bench.plan import plan_benchmark
from bench.report import tables
from bench.report.report_config import Baseline, ReportConfig
from bench.store.results import Results, row_of

GOLDEN_MARKDOWN = """\
# A title

## MNIST, 100 epochs

| variant | rank | train error | test error | published train error | published test error | runs |
| --- | --- | --- | --- | --- | --- | --- |
| original | 1 | 0.0200 ± 0.014 | 0.0250 ± 0.0071 | 0.0230 | 0.0240 | 2/2 |
| original | 2 | 0.0100 | 0.0200 | 0.0155 | 0.0195 | 1/3 (1 diverged, 1 missing) |
| random_labels | 1 | - | - | 0.0890 | 0.0920 | 0/1 (1 failed) |

Mean ± standard deviation over 2 class values and 2 seed values; 3 of 6 runs done. \
Each run's last measurement.
Trivial predictor: constant, 0.0900.
Published values: ten classes.

## Claims

- One.
- Two.
"""

GOLDEN_LATEX = r"""
\begin{table}
\centering
\caption{A title: MNIST, 100 epochs. Mean $\pm$ standard deviation over 2 class values and 2 seed values; 3 of 6 runs done. Each run's last measurement. Trivial predictor: constant, 0.0900. Published values: ten classes.}
\begin{tabular}{lrrrrrr}
\toprule
variant & rank & train error & test error & published train error & published test error & runs \\
\midrule
original & 1 & 0.0200 $\pm$ 0.014 & 0.0250 $\pm$ 0.0071 & 0.0230 & 0.0240 & 2/2 \\
original & 2 & 0.0100 & 0.0200 & 0.0155 & 0.0195 & 1/3 (1 diverged, 1 missing) \\
random\_labels & 1 & - & - & 0.0890 & 0.0920 & 0/1 (1 failed) \\
\bottomrule
\end{tabular}
\end{table}
% One.
""".lstrip()  # noqa: E501

GOLDEN_CSV = """\
variant,model.rank,expected,done,diverged,failed,stopped,missing,dead,worse,\
train_error,train_error_std,train_error_low,train_error_high,\
test_error,test_error_std,test_error_low,test_error_high,\
train_error_published,test_error_published,section,reference
original,1,2,2,0,0,0,0,0,0,0.0200,0.0141,-0.1071,0.1471,0.0250,0.0071,-0.0385,0.0885,\
0.0230,0.0240,"MNIST, 100 epochs",0.0900
original,2,3,1,1,0,0,1,0,0,0.0100,,,,0.0200,,,,0.0155,0.0195,"MNIST, 100 epochs",0.0900
random_labels,1,1,0,0,1,0,0,0,0,,,,,,,,,0.0890,0.0920,"MNIST, 100 epochs",0.0900
"""


def config():
    return ReportConfig(
        title="A title",
        section="data.name",
        rows=("variant", "model.rank"),
        over=("data.target_class", "seed"),
        metrics=("train_error", "test_error"),
        x="model.rank",
        hue="variant",
        reference="constant",
        labels={"data.target_class": "class", "train_error": "train error"},
        published="tensor_rank.csv",
        published_for={"data.levels": 2},
        published_setting="ten classes",
    )


def runs():
    rows = [
        ("original", 1, 0, 0, "max_steps", 0.01, 0.02),
        ("original", 1, 1, 0, "converged", 0.03, 0.03),
        ("original", 2, 0, 0, "max_steps", 0.01, 0.02),
        ("original", 2, 1, 0, "diverged", 5.0, 5.0),
        ("original", 2, 1, 1, "missing", None, None),
        ("random_labels", 1, 0, 0, "failed", None, None),
    ]
    names = ["variant", "model.rank", "data.target_class", "seed", "status"]
    frame = pd.DataFrame(rows, columns=[*names, "train_error", "test_error"])
    return frame.assign(
        **{"data.name": "mnist", "data.levels": 2, "trainer.max_epochs": 100, "constant": 0.09}
    )


def test_markdown_is_the_golden_text():
    parts = tables.sections(runs(), config())
    assert tables.markdown(parts, config(), ["One.", "Two."]) == GOLDEN_MARKDOWN


def test_latex_is_the_golden_text():
    parts = tables.sections(runs(), config())
    assert tables.latex(parts, config(), ["One."]) == GOLDEN_LATEX


def test_csv_is_the_golden_text_unrounded():
    text = tables.csv(tables.sections(runs(), config()), config())
    assert pd.read_csv(StringIO(text)).to_csv(index=False, float_format="%.4f") == GOLDEN_CSV


def test_csv_holds_the_unrounded_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(tables.csv(tables.sections(runs(), config()), config()))
    first = pd.read_csv(path).iloc[0]
    assert first["train_error"] == pytest.approx(0.02, abs=1e-15)
    assert first["train_error_std"] == pytest.approx(0.01 * 2**0.5, abs=1e-15)
    assert (first["expected"], first["done"], first["train_error_published"]) == (2, 2, 0.023)


def test_runs_of_other_settings_are_kept_apart():
    other = runs().assign(**{"trainer.max_epochs": 7})
    parts = tables.sections(pd.concat([runs(), other], ignore_index=True), config())
    assert [part.title for part in parts] == [
        "MNIST, 7 epochs",
        "MNIST, 100 epochs",
    ]
    assert all(part.rows.expected.sum() == 6 for part in parts)


def test_columns_of_one_last_word_are_named_in_full():
    both = replace(config(), rows=("variant", "model.rank", "data.rank"), published="")
    (part,) = tables.sections(runs().assign(**{"data.rank": [1, 2] * 3}), both)
    text, _ = tables.cells_as_text(part, both)
    assert [name for name in text if name.endswith("rank")] == ["model.rank", "data.rank"]


def test_published_values_stand_only_beside_their_own_setting():
    for other in (runs().assign(**{"data.levels": 3}), runs().drop(columns="data.levels")):
        (part,) = tables.sections(other, config())
        published = part.rows[["train_error_published", "test_error_published"]]
        assert published.isna().all(axis=None)


HOSTILE = r"a|b & c_d $x$ {y} \z ~ ^ # 50 % <script>"


def test_names_come_out_as_text():
    frame = runs().replace({"variant": {"original": HOSTILE}})
    parts = tables.sections(frame, config())
    line = next(line for line in tables.markdown(parts, config()).splitlines() if "script" in line)
    assert line.startswith(r"| a\|b &amp; c_d $x$ {y} \z ~ ^ # 50 % &lt;script&gt; | 1 |")
    line = next(line for line in tables.latex(parts, config()).splitlines() if "script" in line)
    cell = (
        r"a|b \& c\_d \$x\$ \{y\} \textbackslash{}z \textasciitilde{} \textasciicircum{} \#"
        r" 50 \% $<$script$>$"
    )
    assert line.strip().startswith(f"{cell} & 1 &")
    assert pd.read_csv(StringIO(tables.csv(parts, config()))).variant[0] == HOSTILE


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_spreadsheet_takes_a_name_for_a_formula(name):
    parts = tables.sections(runs().assign(variant=name), config())
    table = pd.read_csv(StringIO(tables.csv(parts, config())))
    assert table.variant.unique().tolist() == [f"'{name}"]
    assert table.train_error.dtype == float


def test_a_list_at_the_start_of_a_row_is_no_option_of_latex():
    text = tables.as_latex(pd.DataFrame({"widths": ["[32, 64]"]}), "")
    assert r"{}[32, 64] \\" in text


def test_a_setting_that_no_run_has_is_left_out():
    rows = ("variant", "model.rank", "regularizer.coefficient")
    wider = replace(config(), rows=rows, published="")
    text = tables.markdown(tables.sections(runs(), wider), wider)
    without = replace(config(), published="")
    assert text == tables.markdown(tables.sections(runs(), without), without)


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (0.0171, 0.00823, "0.0171 ± 0.0082"),
        (0.334, 0.0152, "0.334 ± 0.015"),
        (1.0, 4.7e-6, "1.0000000 ± 0.0000047"),
        (1.1, 4.7e-7, "1.1000"),
        (5.6e-4, 9.6e-4, "(5.60 ± 9.6)e-04"),
        (123456.0, 1234.0, "(1.235 ± 0.012)e+05"),
        (0.0, 0.0021, "0.0000 ± 0.0021"),
        (2.0, 0.0, "2"),
    ],
)
def test_spreads_have_two_significant_digits(mean, std, text):
    frame = runs()[:2].assign(train_error=[mean - std / 2**0.5, mean + std / 2**0.5])
    shown, _ = tables.cells_as_text(tables.sections(frame, config())[0], config())
    assert shown["train error"].tolist() == [text]


def test_what_all_rows_share_stands_below_the_table():
    frame = runs()[:3].assign(variant="original")
    text, same = tables.cells_as_text(tables.sections(frame, config())[0], config())
    assert "variant" not in text
    assert same == "In every row: variant original."


def test_a_wide_table_folds_into_one_per_question():
    wide = replace(
        config(),
        metrics=("train_error", "test_error", "a", "b"),
        questions={"errors": ("train_error", "test_error"), "others": ("a", "b")},
    )
    grids = tables.grids(tables.sections(runs().assign(a=1.0, b=2.0), wide)[0], wide)
    titles = [title for title, *_ in grids]
    assert titles == ["MNIST, 100 epochs: errors", "MNIST, 100 epochs: others"]
    named = [{*grid} & {"train error", "a", "b"} for _, grid, _ in grids]
    assert named == [{"train error"}, {"a", "b"}]


def test_a_few_runs_of_another_setting_are_in_the_csv_alone():
    frame = pd.concat([runs()] * 3, ignore_index=True)
    few = frame[:1].assign(**{"trainer.max_epochs": 7})
    parts = tables.sections(pd.concat([frame, few], ignore_index=True), config())
    text = tables.markdown(parts, config())
    assert "## MNIST, 100 epochs" in text
    assert "## MNIST, 7 epochs" not in text
    assert "Only in table.csv: 1 run(s) of MNIST, 7 epochs." in text
    assert "7 epochs" in tables.csv(parts, config())


def test_a_baseline_stands_beside_the_rows_that_it_matches_and_in_no_mean():
    own = [("mnist", "original", rank, c, 0.1 * rank, "cp") for rank in (1, 2) for c in (0, 1)]
    linear = [("mnist", "original", 1, c, 0.3 + 0.2 * c, "linear") for c in (0, 1)]
    names = ["data.name", "variant", "model.rank", "data.target_class", "train_error", "model.name"]
    frame = pd.DataFrame([*own, *linear], columns=names).assign(seed=0, status="max_steps")
    where = Baseline(where={"model.name": "linear"}, name="linear", says="as many parameters")
    changed = replace(config(), baseline=where)
    (section,) = tables.sections(frame, changed)
    assert section.rows.train_error.round(9).tolist() == [0.1, 0.2]
    assert section.rows.train_error_baseline.fillna(-1).round(9).tolist() == [0.4, -1]
    text = tables.markdown([section], changed)
    assert "| 0.1000 | 0.4000 |" in text
    assert "linear: as many parameters." in text
    alone = frame[frame["model.name"] == "linear"]  # then they are what the table is about
    (section,) = tables.sections(alone, changed)
    assert section.rows.train_error.round(9).tolist() == [0.4]


def test_a_share_of_runs_has_its_exact_interval_beside_medians_too():
    frame = runs().iloc[[0] * 4].assign(seed=range(4), found=[1.0, 1.0, 0.0, 1.0])
    for summary in ("mean", "median"):
        shares = replace(
            config(), metrics=("train_error", "found"), proportions=("found",), summary=summary
        )
        (part,) = tables.sections(frame, shares)
        text, _ = tables.cells_as_text(part, shares)
        # Clopper and Pearson: 3 of 4.
        assert text["found"].tolist() == ["0.75 [0.19, 0.99]"]
        assert "found: share of the runs [exact 95 % interval]." in part.caption
    with pytest.raises(UserError, match="proportions with found: expected a metric that is 0 or 1"):
        tables.sections(frame.assign(found=[1.0, 0.5, 0.0, 1.0]), shares)


def test_what_may_differ_within_a_section_makes_none_of_its_own():
    rows = {}
    for cell in plan_benchmark("families", ["classes=0,1"]).cells:
        size = cell.config["model"].get("rank", 0) + cell.config["model"].get("width", 0)
        metrics = {"train_error": 0.1, "test_error": 0.1, "parameters": float(size)}
        rows[cell.run_key] = row_of(record_of(cell, "families", metrics=metrics))
    (section,) = tables.sections(Results.of(rows, {}).frame, ReportConfig.of("families"))
    assert len(section.runs) == 54
    assert len(section.rows) == 27  # three variants, families and sizes
    assert (section.rows.done == 2).all()
