"""Configuration: schemas, keys and messages."""

import pytest

from bench.config import CONFIG_DIR, Cell, choices, compose, get_value, plain, scientific, typed
from bench.errors import UserError
from bench.sweep import prepare


def cell(*overrides):
    return Cell.of(scientific(plain(compose(overrides))))


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/elsewhere",
        "trainer.accelerator=gpu",
        "trainer.log_every_n_epochs=3",
        "trainer.checkpoint_every_s=1",
        "tracking.mode=disabled",
        "runs_dir=elsewhere",
        "results_dir=elsewhere",
        "sweep.max_memory=1",
    ],
)
def test_how_a_run_is_computed_does_not_change_its_key(override):
    assert cell(override).run_key == cell().run_key


@pytest.mark.parametrize(
    "override",
    [
        "variant=random_labels",
        "seed=1",
        "data=mnist",
        "data.levels=3",
        "data.batch_size=100",
        "model.rank=6",
        "learner.learning_rate=1e-3",
        "trainer.max_epochs=7",
    ],
)
def test_what_changes_the_numbers_changes_the_key(override):
    assert cell(override).run_key != cell().run_key


def test_the_key_is_the_same_in_another_process():
    import subprocess
    import sys

    code = (
        "from bench.config import *; print(Cell.of(scientific(plain(compose([])))).run_key, end='')"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == cell().run_key


def test_the_config_holds_plain_values_and_no_path():
    config = cell("data.root=/a/place").config
    assert "root" not in config["data"]
    assert "/a/place" not in str(config)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"rnak": 3}, "model.rnak.*rank, init_mean, init_std"),
        ({"rank": "three"}, "model.rank='three'"),
        ({"rank": 1.5}, "model.rank=1.5"),
        ({"rank": 0}, "at least 1"),
    ],
)
def test_a_mistake_in_a_yaml_file_is_found(node, message):
    values = {"_target_": "bench.models.cp.CPConfig", "rank": 2, **node}
    with pytest.raises(UserError, match=message):
        typed(values, "model")


@pytest.mark.parametrize("target", ["", "os.system", "bench.models.cp.Nothing", "bench.models.cp"])
def test_a_target_that_is_no_schema_is_refused(target):
    with pytest.raises(UserError, match="_target_"):
        typed({"_target_": target}, "model")


def test_a_key_that_does_not_exist_lists_those_that_do():
    with pytest.raises(UserError, match="rank"):
        get_value({"model": {"rank": 1}}, "model.size")


def test_a_sweep_in_an_override_is_an_axis_of_the_grid(tmp_path):
    where = f"runs_dir={tmp_path}"
    one = prepare("tensor_rank", [where, "classes=[1]", "ranks=[2]", "seeds=[0]"])
    assert len(one.cells) == 3
    two = prepare(
        "tensor_rank", [where, "classes=[1]", "ranks=[2]", "seeds=[0]", "data.levels=2,3"]
    )
    assert {cell.config["data"]["levels"] for cell in two.cells} == {2, 3}
    fixed = prepare("tensor_rank", [where, "variant=random_labels", "model.rank=7", "classes=[1]"])
    assert {(c.config["variant"], c.config["model"]["rank"]) for c in fixed.cells} == {
        ("random_labels", 7)
    }


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_composes_against_its_schema(path):
    group = path.parent.relative_to(CONFIG_DIR).as_posix()
    if group == ".":
        overrides = []
    elif "/" in group:  # what belongs to one benchmark stands in a folder of its name
        kind, benchmark = group.split("/")
        chosen = f"{group}={path.stem}" if kind == "preset" else f"{kind}={benchmark}/{path.stem}"
        overrides = [f"benchmark={benchmark}", chosen]
    else:
        overrides = [f"{group}={path.stem}"]
    config = plain(compose(overrides))
    for name, node in config.items():
        if isinstance(node, dict) and "_target_" in node:
            typed(node, name)


REAL_DATA = ("is_same_class", "regularizer_forms")  # read MNIST by default


@pytest.mark.parametrize(
    "benchmark",
    [
        pytest.param(name, marks=[pytest.mark.real_data] if name in REAL_DATA else [])
        for name in choices("benchmark")
        if name != "single"
    ],
)
def test_every_benchmark_s_grid_is_valid(benchmark, tmp_path):
    drawn = [f"data.root={tmp_path}"] if benchmark == "pathfinder" else []  # images that it keeps
    sweep = prepare(benchmark, [f"runs_dir={tmp_path}", *drawn])
    assert len({cell.run_key for cell in sweep.cells}) == len(sweep.cells) > 1
    assert sorted(cell.run_key for stack in sweep.stacks() for cell in stack) == sorted(
        cell.run_key for cell in sweep.cells
    )
