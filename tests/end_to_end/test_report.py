"""The page of all results in a real browser, at ten thousand runs, and from damaged files."""

import json
import shutil
import time

import pytest
from playwright.sync_api import sync_playwright

from bench.store.results import load_runs

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium: the system's, or the one of `playwright install chromium`."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        # Inside a container Chromium cannot build its own sandbox; the page is our own file.
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture
def page_of(rankbench, browser, tmp_path):
    """Build the page of a folder of runs and open it; fail on any console error or request."""
    opened = []

    def open_page(runs_dir, expected=0, **context):
        code, _, error = rankbench("report", f"runs_dir={runs_dir}")
        assert code == expected, error
        page = browser.new_context(**context).new_page()
        faults = []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda fault: faults.append(str(fault)))
        page.on("request", lambda request: faults.append(request.url))
        url = (runs_dir / "index.html").as_uri()
        page.goto(url)
        opened.append((page, faults, url))
        return page

    yield open_page
    for page, faults, url in opened:
        assert faults == [url]  # the page itself, and nothing else
        page.context.close()


def column(page, number):
    return page.locator(f"#rows td:nth-child({number})").all_inner_texts()


def test_the_page_shows_claims_figures_tables_and_provenance(made_up_runs, page_of, tmp_path):
    made_up_runs(tmp_path / "runs")
    page = page_of(tmp_path / "runs")
    claims = page.get_by_role("region", name="Claims and verdicts").inner_text()
    assert "At rank 5 the train error on original data is less than half" in claims
    frame = load_runs(tmp_path / "runs")
    errors = frame[frame["model.rank"] == 5].groupby("variant").train_error.mean()
    assert f"{errors['original'] / errors['random_images']:.3g} [" in claims
    assert "◌ Not trained far enough: 8 of 8 runs" in claims
    images = page.locator("img")
    assert images.count() == 1
    width = "image => image.decode().then(() => image.naturalWidth)"
    assert images.first.evaluate(width) > 300
    assert "digits" in images.first.get_attribute("alt")
    assert (
        page.get_by_text("--by variant --metric train_error --where data.name=digits").count() == 1
    )
    assert page.get_by_role("cell", name="random_labels vs original").count() == 2
    page.get_by_text("Command, commit, versions").click()
    assert "0" * 40 in page.locator("pre").inner_text()


def test_all_runs_can_be_sorted_and_filtered_by_keyboard(made_up_runs, page_of, tmp_path):
    made_up_runs(tmp_path / "runs")
    page = page_of(tmp_path / "runs")
    assert "24 of 24 runs" in page.locator("#count").inner_text()
    assert column(page, 7)[0].endswith("/wandb/offline-run-a")
    for direction, reverse in (("ascending", False), ("descending", True)):
        page.get_by_role("button", name="train_error").press("Enter")
        head = page.locator("#runs ~ .scroll th").nth(4)
        assert head.get_attribute("aria-sort") == direction
        errors = [float(text) for text in column(page, 5)]
        assert errors == sorted(errors, reverse=reverse)
        assert len(set(errors)) > 2
    page.locator("#words").focus()
    page.keyboard.type("random_labels RANK=5 seed=1")
    assert "2 of 24 runs" in page.locator("#count").inner_text()
    assert all("variant=random_labels" in text for text in column(page, 3))
    page.locator("#words").fill("nothing of this kind")
    assert "0 of 24 runs" in page.locator("#count").inner_text()
    page.locator("#words").fill("")
    page.locator("#metric").select_option("test_error")
    errors = [float(text) for text in column(page, 5)]
    assert errors == sorted(errors, reverse=True)
    page.locator("#status").select_option("max_steps")
    assert "24 of 24 runs" in page.locator("#count").inner_text()


def test_every_control_shows_that_it_has_the_focus(made_up_runs, page_of, tmp_path):
    made_up_runs(tmp_path / "runs")
    page = page_of(tmp_path / "runs")
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        style = "document.activeElement.tagName + ' ' + getComputedStyle(document.activeElement)"
        tag, outline = page.evaluate(f"{style}.outlineStyle").split()
        seen.add(tag)
        assert tag == "BODY" or outline == "solid"
    assert {"A", "BUTTON", "INPUT", "SELECT", "SUMMARY"} <= seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_need_not_scroll_sideways(made_up_runs, page_of, tmp_path, scheme):
    made_up_runs(tmp_path / "runs")
    size = {"width": 360, "height": 740}
    page = page_of(tmp_path / "runs", viewport=size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    luminance = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert (sum(page.evaluate(luminance)) > 384) == (scheme == "light")


def test_what_is_on_the_page_is_text_never_markup(made_up_runs, page_of, tmp_path):
    folder = made_up_runs(tmp_path / "runs")["original", 1, 0, 0]
    record = json.loads((folder / "record.json").read_text())
    record["wandb"]["path"] = "</script><script>document.title = 'taken'</script>"
    (folder / "record.json").write_text(json.dumps(record))
    page = page_of(tmp_path / "runs")
    assert page.title() == "rankbench: results"
    assert any("</script>" in text for text in column(page, 7))


def test_damaged_and_foreign_records_are_named_counted_and_left_out(
    made_up_runs, page_of, rankbench, tmp_path
):
    runs_dir = tmp_path / "runs"
    folders = list(made_up_runs(runs_dir).values())
    half = folders[0] / "record.json"
    half.write_bytes(half.read_bytes()[:200])
    foreign = runs_dir / "tensor_rank" / "foreign"
    foreign.mkdir()
    (foreign / "record.json").write_text('{"loss": 1}')
    code, _, error = rankbench("table", "tensor_rank", f"runs_dir={runs_dir}")
    assert code == 0
    for path in (half, foreign / "record.json"):
        assert f"left out: {path}: expected a file of format 2" in error
    assert "2 files left out, 23 runs read" in error
    page = page_of(runs_dir)
    assert page.get_by_text("Left out:").count() == 2
    assert "23 of 23 runs" in page.locator("#count").inner_text()


def test_a_benchmark_whose_records_are_all_damaged_is_named_beside_the_others(
    made_up_runs, rankbench, tmp_path
):
    made_up_runs(tmp_path)
    other = tmp_path / "partly_random" / ("0" * 16)
    other.mkdir(parents=True)
    (other / "record.json").write_text("{}")
    code, out, error = rankbench("report", f"runs_dir={tmp_path}")
    assert code == 1
    assert "index.html" in out
    assert "partly_random: listed only, because no record can be read" in error


def test_without_runs_and_results_there_is_no_page(rankbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, error = rankbench("report")
    assert (code, out) == (2, "")
    assert "rankbench bench tensor_rank" in error
    assert not list(tmp_path.rglob("index.html"))


def test_a_results_folder_gives_the_same_page_as_its_runs(made_up_runs, rankbench, tmp_path):
    runs_dir, results = tmp_path / "runs", tmp_path / "results"
    made_up_runs(runs_dir)
    assert rankbench("report", f"runs_dir={runs_dir}")[0] == 0
    code, _, _ = rankbench(
        "figure", "tensor_rank", f"runs_dir={runs_dir}", f"results_dir={results}"
    )
    assert code == 0
    shutil.rmtree(runs_dir / "tensor_rank")
    code, out, _ = rankbench("report", "--from", "results", f"results_dir={results}")
    assert code == 0
    assert "from the results" in out
    assert (results / "index.html").read_bytes() == (runs_dir / "index.html").read_bytes()


def test_a_figure_that_cannot_be_plotted_keeps_nothing_else_from_the_page(
    made_up_runs, page_of, tmp_path, monkeypatch
):
    monkeypatch.setattr("bench.report.figures.plot", lambda *arguments: 1 / 0)
    made_up_runs(tmp_path / "runs")
    page = page_of(tmp_path / "runs", expected=1)
    assert page.get_by_text("There is no figure yet").count() == 1
    assert page.get_by_role("cell", name="random_images", exact=True).count() > 1


@pytest.mark.stress
def test_ten_thousand_runs(made_up_runs, page_of, rankbench, tmp_path):
    runs_dir = tmp_path / "runs"
    axes = {"ranks": range(1, 16), "classes": range(10), "seeds": range(23)}
    assert len(made_up_runs(runs_dir, **axes, points=40)) == 10_350
    tables = []
    for _ in range(2):  # what else runs on the machine only adds to it
        start = time.process_time()
        assert rankbench("table", "tensor_rank", f"runs_dir={runs_dir}")[0] == 0
        tables.append(time.process_time() - start)
    start = time.process_time()
    page = page_of(runs_dir)
    assert min(tables) < 5
    assert time.process_time() - start < 30
    assert (runs_dir / "index.html").stat().st_size < 15e6
    assert "10,350 of 10,350 runs" in page.locator("#count").inner_text()
    page.locator("#words").fill("seed=22 rank=15")
    assert "30 of 10,350 runs" in page.locator("#count").inner_text()
