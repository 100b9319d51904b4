"""Tables from a small hand-made set of runs; the golden text has been read."""

import pandas as pd
import pytest

from bench.report import figures, tables
from bench.report.spec import ReportSpec

GOLDEN_MARKDOWN = """\
# A claim.

## mnist

| variant | rank | train error | test error | published train error | published test error | runs |
| --- | --- | --- | --- | --- | --- | --- |
| original | 1 | 0.0200 ± 0.0141 | 0.0250 ± 0.0071 | 0.0230 | 0.0240 | 2/2 |
| original | 2 | 0.0100 | 0.0200 | 0.0155 | 0.0195 | 1/3 (1 diverged) |
| random_labels | 1 | - | - | 0.0890 | 0.0920 | 0/1 |

Mean ± standard deviation over 2 class values and 2 seed values; 3 of 6 runs done; at most 100 \
epochs, numbers of the last measurement.
constant: 0.0900.
Published values: ten classes.
"""

GOLDEN_LATEX_ROW = (
    r"    original & 1 & 0.0200 $\pm$ 0.0141 & 0.0250 $\pm$ 0.0071 & 0.0230 & 0.0240 & 2/2 \\"
)


def spec():
    return ReportSpec(
        title="A claim.",
        section="data.name",
        rows=["variant", "model.rank"],
        over=["data.target_class", "seed"],
        metrics=["train_error", "test_error"],
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
    assert tables.markdown(tables.sections(runs(), spec()), spec()) == GOLDEN_MARKDOWN


def test_latex_is_a_booktabs_table_with_the_same_numbers():
    text = tables.latex(tables.sections(runs(), spec()), spec())
    assert GOLDEN_LATEX_ROW in text.splitlines()
    assert text.count(r"\begin{tabular}{llrrrrr}") == text.count(r"\end{tabular}") == 1
    assert "random\\_labels & 1 & - & - & 0.0890" in text
    assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")


def test_csv_holds_the_unrounded_numbers(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(tables.csv(tables.sections(runs(), spec()), spec()))
    first = pd.read_csv(path).iloc[0]
    assert first["train_error"] == pytest.approx(0.02, abs=1e-15)
    assert first["train_error_std"] == pytest.approx(0.01 * 2**0.5, abs=1e-15)
    assert (first["expected"], first["done"], first["train_error_published"]) == (2, 2, 0.023)


def test_runs_of_other_settings_are_kept_apart():
    other = runs().assign(**{"trainer.max_epochs": 7})
    parts = tables.sections(pd.concat([runs(), other], ignore_index=True), spec())
    assert [part.title for part in parts] == [
        "mnist (trainer.max_epochs=7)",
        "mnist (trainer.max_epochs=100)",
    ]
    assert all(part.rows.expected.sum() == 6 for part in parts)


def test_published_values_stand_only_beside_their_own_setting():
    for other in (runs().assign(**{"data.levels": 3}), runs().drop(columns="data.levels")):
        (part,) = tables.sections(other, spec())
        published = part.rows[["train_error_published", "test_error_published"]]
        assert published.isna().all(axis=None)


def test_the_figure_shows_every_curve(tmp_path):
    parts = tables.sections(runs(), spec())
    figure = figures.draw(parts, spec(), runs(), tmp_path)
    (axis,) = figure.axes
    shown = [line for line in axis.lines if line.get_linestyle() not in ("None", "none")]
    assert len(shown) == 2 * 2 + 1  # two variants with train and test, and the reference line
    path = figures.save(figure, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "figure.svg").read_bytes()
