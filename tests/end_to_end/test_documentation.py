"""The commands that README and docs print are valid, and the site shows every page and name."""

import hashlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from made_up import write_patches
from PIL import Image

from bench import public
from bench.plan import plan_benchmark, plan_run
from bench.store.results import Results

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`rankbench ([^`]+)`")
PLACEHOLDERS = ("...", "NAME", "FACTOR", "KEY=", "<")
AUTODOC = re.compile(r"^\.\. auto(?:class|function|module):: (\S+)$", re.MULTILINE)


def documented():
    """Return every documented call of `rankbench` once, as a tuple of its words.

    Those of non_local_tasks.md are the commands of committed results, see `test_run_keys.py`.
    """
    found = {}
    paths = {ROOT / "README.md", *DOCS.glob("*.md")} - {DOCS / "non_local_tasks.md"}
    for text in (path.read_text() for path in sorted(paths)):
        lines = [
            line
            for kind, code in FENCE.findall(text)
            if kind == "console"
            for line in code.splitlines()
        ]
        commands = [line.partition("rankbench ")[2] for line in lines]
        commands += INLINE.findall(FENCE.sub("", text))
        for command in commands:
            if command and not any(word in command for word in PLACEHOLDERS):
                found[tuple(shlex.split(command, comments=True))] = None
    return list(found)


TRAINING = [
    words for words in documented() if words[0] in ("bench", "run") and {*words[1:]} - {"--help"}
]


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """Return a folder with the own data that the documents speak of, but small."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 4, 4)), np.arange(60) % 2
    for name in ("mine", "patches"):
        np.savez(folder / f"{name}.npz", x=x, y=y)
    for index, pixels in enumerate(x[:24].astype(np.uint8)):
        path = folder / "photos" / f"class_{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.mark.parametrize("words", TRAINING, ids=" ".join)
def test_a_documented_command_that_trains_is_valid(words, own_data, monkeypatch):
    monkeypatch.chdir(own_data)
    verb, *rest = (word for word in words if not word.startswith("-"))
    plan = plan_benchmark(rest[0], rest[1:]) if verb == "bench" else plan_run(rest)
    assert plan.cells


def test_the_example_of_own_data_is_the_one_whose_results_are_committed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_patches()
    digest = hashlib.sha256((tmp_path / "patches.npz").read_bytes()).hexdigest()
    assert digest in (DOCS / "your_data.md").read_text()
    runs = Results.from_folder(ROOT / "results/patches/tensor_rank").frame
    assert {*runs["data.sha256"]} == {digest}


def test_the_documented_sweep_asks_for_valid_runs():
    (text,) = (
        code for kind, code in FENCE.findall((DOCS / "searches.md").read_text()) if kind == "yaml"
    )
    sweep = yaml.safe_load(text)
    program, verb, *fixed, chosen = sweep["command"]
    assert (program, verb, chosen) == ("rankbench", "run", "${args_no_hyphens}")
    first = {
        name: values.get("min") or values["values"][0]
        for name, values in sweep["parameters"].items()
    }
    (cell,) = plan_run([*fixed, *(f"{name}={value}" for name, value in first.items())]).cells
    assert (cell.model.rank, cell.optimizer.arguments["lr"], cell.seed) == (1, 1e-4, 100)


def test_the_documented_search_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    losses = []
    trial = SimpleNamespace(
        suggest_float=lambda name, low, high, log: 0.01, suggest_int=lambda name, low, high: low
    )
    study = SimpleNamespace(
        optimize=lambda objective, n_trials: losses.append(objective(trial)), best_params={}
    )
    optuna = SimpleNamespace(create_study=lambda **_: study, Trial=object)
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    monkeypatch.setitem(sys.modules, "rankbench", public)
    (code,) = (
        text for kind, text in FENCE.findall((DOCS / "searches.md").read_text()) if kind == "python"
    )
    exec(code.replace("max_epochs=30", "max_epochs=2"), {})
    assert 0 < losses[0] < 1


def site():
    spec = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    return conf


def test_the_site_s_navigation_has_every_page():
    shown = [name for pages in site().NAVIGATION.values() for name in pages]
    assert len(shown) == len({*shown})
    pages = [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *DOCS.rglob("*.rst"),
        ROOT / "results/README.md",
    ]
    names = {page.relative_to(ROOT).with_suffix("").as_posix() for page in pages}
    assert {*shown} == names - {site().root_doc}


def test_the_reference_has_every_public_name():
    texts = {path.stem: path.read_text() for path in (DOCS / "reference").glob("*.rst")}
    exposed = set(re.findall(r":: rankbench\.(\w+)", texts["rankbench"]))
    assert exposed == {*public.__all__}
    for name in AUTODOC.findall("".join(texts.values())):
        module, _, member = name.replace("rankbench.", "bench.public.").rpartition(".")
        known = hasattr(importlib.import_module(module), member)
        assert known or importlib.import_module(name)
