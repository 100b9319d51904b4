"""What README, docs, titles and captions say, held against the committed results."""

import re
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from bench.configuration import benchmarks
from bench.report.claims import findings
from bench.report.report_config import ReportConfig
from bench.report.tables import sections
from bench.store.results import Results

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# A command in a text, over several lines or not; "..." stands for something left out.
COMMAND = re.compile(r"`(?:\$ )?rankbench ((?:table|compare) [^`.]*(?:\.\w+[^`.]*)*)`")
# Where a text cites numbers: the file, where the passage begins and ends, and its commands.
PASSAGES = [
    ("README.md", "On MNIST at rank 5", "At seven ranks"),
    ("README.md", "**Part of it is linear", "[results/tensor_rank](results/tensor_rank) has"),
    ("README.md", "- **Two digits on one canvas**", "- **Ten classes**"),
    ("README.md", "- **Ten classes**", "- **Three families"),
    ("README.md", "- **Three families", "## Commands"),
    ("docs/your_data.md", "The profile of these patches", "## Other models"),
    ("docs/non_local_tasks.md", "## What was found\n", "The plain network fits every"),
    ("docs/non_local_tasks.md", "## CIFAR-10 in color", "At 128 pixels the plain"),
    ("docs/non_local_tasks.md", "## Ten more seeds", "At distance 128 the gain"),
    ("docs/non_local_tasks.md", "## A placebo and rivals", "A run took 61 s"),
    ("docs/non_local_tasks.md", "### The same on Pathfinder", "A run took 140 s"),
    ("docs/non_local_tasks.md", "- The gain does not come from", "Whether the placebo does"),
    ("docs/non_local_tasks.md", "- On mirrored images the", "and within 40 epochs"),
    ("docs/non_local_tasks.md", "## The forms of the regularizer", "With 160 epochs, the plain"),
    ("docs/non_local_tasks.md", "On seed 100 only: 2,500 pairs", "From distance 0 to 128, the"),
    ("docs/non_local_tasks.md", "## Longer training changes", "The plain network stays"),
    ("docs/non_local_tasks.md", "## 60 epochs on fresh images", "The costs are not equal"),
]
# Numbers of those passages that are no results: settings, and what was measured on seed 100.
SETTINGS = {"docs/non_local_tasks.md": {".824", ".645", ".783", "0.02"}}
# Words that claim an outcome, or that there is none.
ASSERTS = (
    r"\b(can|cannot|falls?|rises?|counters?|recovers?|diverges?|tends?|are learned|explains?)\b"
)
NO_EFFECT = r"\b(no effect|no influence|changes nothing|makes no difference|proves?|proven)\b"


def passage(name, begin, end):
    text = (ROOT / name).read_text()
    start = text.index(begin)
    return text[start : text.index(end, start)]


def commands_in(text):
    found = [command.split() for command in COMMAND.findall(text)]
    return [words for words in found if words[1] != "NAME"]  # which stands for any benchmark


def on_results(words):
    """Return a command's arguments, reading the committed results."""
    source = [] if "--from" in words else ["--from", "results"]
    folders = [word.partition("=")[2] for word in words if word.startswith("results_dir=")]
    own = [word.strip("'") for word in words if not word.startswith("results_dir=")]
    return [*own, *source, f"results_dir={ROOT / (folders or ['results'])[0]}"]


def numbers_in(text):
    """Return the numbers that a text cites: decimals, those in brackets and before "times"."""
    text = re.sub(r"`[^`]*`|\]\([^)]*\)|95 %", " ", text)
    found = re.findall(r"(?<![\w.,])[-+]?\d*\.\d+(?!\.?\d)", text)
    for brackets in re.findall(r"\[[-+\d., ]+\]", text):
        found += re.findall(r"[-+]?[\d.]+", brackets)
    return [*found, *re.findall(r"(?<![\d.])(\d+) times", text)]


def is_printed(number, printed):
    """Return whether a number is one of the printed ones, rounded to its own digits."""
    digits = len(number.partition(".")[2])
    half = 0.5001 * 10.0**-digits
    return bool(((printed - float(number)).abs() <= half).any())


@pytest.mark.parametrize(("name", "begin", "end"), PASSAGES)
def test_documented_commands_print_the_numbers_beside_them(name, begin, end, rankbench):
    text = passage(name, begin, end)
    calls = commands_in(text)
    assert calls, f"no command in the passage {begin!r}"
    numbers = []
    for words in calls:
        code, out, error = rankbench(*on_results(words), "--format", "csv")
        assert code == 0, error
        table = pd.read_csv(StringIO(out)).select_dtypes("number")
        numbers.append(table.stack())
    values = pd.concat(numbers)
    cited = [number for number in numbers_in(text) if number not in SETTINGS.get(name, ())]
    assert cited
    assert [number for number in cited if not is_printed(number, values)] == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_documented_command_that_only_reads_works(path, rankbench):
    for words in commands_in(path.read_text()):
        code, _, error = rankbench(*on_results(words))
        assert code == 0, f"{words}: {error}"


@pytest.mark.parametrize("name", benchmarks())
def test_a_title_asserts_nothing_that_its_claims_do_not_hold(name):
    config = ReportConfig.of(name)
    if not re.search(ASSERTS, config.title):
        return
    for folder in (ROOT / "results").rglob(f"{name}/runs.parquet"):
        results = Results.from_folder(folder.parent)
        found = findings(sections(results.frame, config), config, results.curves)
        assert {finding.outcome for finding in found} == {"holds"}, config.title


@pytest.mark.parametrize("path", [*TEXTS, *(ROOT / "configs/benchmark").glob("*.yaml")])
def test_no_difference_that_was_found_is_never_no_effect(path):
    assert re.findall(NO_EFFECT, path.read_text()) == []


@pytest.mark.parametrize("path", sorted((ROOT / "results").rglob("table.md")), ids=str)
def test_committed_tables_and_captions_are_those_of_the_committed_runs(path, rankbench):
    name = path.parent.name
    if not (path.parent / "runs.parquet").exists():
        return  # of `rankbench perf`
    call = ["table", name, "--from", "results", f"results_dir={path.parents[1]}"]
    assert rankbench(*call)[1] == path.read_text()
    latex = (path.parent / "table.tex").read_text()
    assert rankbench(*call, "--format", "latex")[1] == latex
    title = ReportConfig.of(name).title
    assert all(caption.startswith(title) for caption in re.findall(r"\\caption{(.*)}", latex))
