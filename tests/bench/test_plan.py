"""From overrides to cells: grids, keys and messages."""

import re
import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from bench.configuration import FOLDERS, benchmarks, choices, compose
from bench.core.errors import UserError
from bench.core.settings import load
from bench.plan import check, plan_benchmark, plan_run, stacks


def cell(*overrides):
    (only,) = plan_run(overrides).cells
    return only


@pytest.mark.parametrize(
    "override",
    [
        "data.root=/elsewhere",
        "execution.root=/elsewhere",
        "execution.threads=2",
        "trainer.accelerator=gpu",
        "trainer.devices=2",
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
        "optimizer.lr=1e-3",
        "optimizer=adamw",
        "learner.converged_below=1e-6",
        "trainer.max_epochs=7",
        "trainer.gradient_clip_val=1.0",
        "trainer.precision=64-true",
    ],
)
def test_what_changes_the_numbers_changes_the_key(override):
    assert cell(override).run_key != cell().run_key


def test_a_value_at_its_default_is_the_default():
    assert cell("model.rank=5", "trainer.precision=null").run_key == cell().run_key


@pytest.mark.slow
def test_the_key_is_the_same_in_another_process():
    code = "from bench.plan import plan_run; print(plan_run([]).cells[0].run_key, end='')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout == cell().run_key


def test_the_recorded_configuration_is_plain_and_holds_no_place():
    config = cell("data.root=/a/place").config
    assert "/a/place" not in str(config)
    assert "_target_" not in str(config)
    assert config["model"] == {"name": "cp", "rank": 5, "init_mean": 1.0, "init_std": 1e-3}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.rnak=3"], "model.rnak: expected one of rank.*did you mean rank"),
        (["data=mnits"], "data"),
        (["modle.rank=3"], "modle"),
        (["trainer.max_epoch=3"], "did you mean max_epochs"),
        (["regularizer=published"], "regularizer=.*one_versus_all"),
        (["model=matrix"], "model=.*with learner=one_versus_all"),
        (["seed=-1"], "seed=-1"),
        (["seed=1.5"], "seed=1.5"),
        (["model.rank=1,2"], "add -m"),
        (["benchmark=tensor_rank", "experiment=is_same_class/quick"], "experiment=is_same_class"),
        (["+new=1"], r"\+new=1"),
        (["model.rank"], "key=value"),
    ],
)
def test_a_mistake_is_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        plan_run(overrides)
    assert "\n" not in str(caught.value)


def test_an_experiment_brings_its_benchmark_along():
    plan = plan_run(["experiment=is_same_class/quick", "model.stem=[8,7,4]"])
    assert plan.benchmark == "is_same_class"
    assert plan.cells[0].learner.name == "classification"


def test_an_experiment_of_another_benchmark_is_refused():
    with pytest.raises(
        UserError, match=r"experiment=tensor_rank/published: expected.*hierarchical/"
    ):
        plan_benchmark("hierarchical", ["experiment=tensor_rank/published"])


def test_an_axis_is_set_by_its_name_by_a_sweep_and_by_its_key():
    few = ["model=cp", "classes=[1]", "ranks=[2]", "seeds=[0]"]
    assert len(plan_benchmark("tensor_rank", few).cells) == 3
    two = plan_benchmark("tensor_rank", [*few, "data.levels=2,3"]).cells
    assert {cell.data.levels for cell in two} == {2, 3}
    assert len(two) == 6
    both = plan_benchmark("tensor_rank", [*few, "data=digits,mnist"]).cells
    assert {cell.data.name for cell in both} == {"digits", "mnist"}
    fixed = plan_benchmark("tensor_rank", ["variant=random_labels", "model.rank=7", "classes=[1]"])
    assert {(c.variant, c.model.rank) for c in fixed.cells} == {("random_labels", 7)}


@pytest.mark.parametrize(
    ("override", "ranks"),
    [("ranks=1,2", {1, 2}), ("ranks=range(1,4)", {1, 2, 3}), ("ranks=3", {3})],
)
def test_an_axis_takes_hydra_s_sweeps(override, ranks):
    plan = plan_benchmark("tensor_rank", [override, "classes=[1]", "seeds=[0]", "model=cp"])
    assert {cell.model.rank for cell in plan.cells} == ranks
    assert len(plan.cells) == 3 * len(ranks)


def test_baselines_are_planned_unless_the_command_speaks_of_the_model():
    few = ["classes=[1]", "ranks=[2]", "seeds=[0]", "variants=[original]"]

    def models(*overrides):
        return [cell.model.name for cell in plan_benchmark("tensor_rank", [*few, *overrides]).cells]

    assert models() == models("trainer.max_epochs=5") == models("data.levels=3") == ["cp", "linear"]
    assert (
        models("model=cp") == models("model.init_std=0.1") == models("learner.patience=2") == ["cp"]
    )
    assert models("case=tensor_rank/linear") == ["linear"]


def test_all_stands_for_every_class_of_the_data():
    words = ["ranks=1", "seeds=0", "variants=[original]", "model=cp"]
    plan = plan_benchmark("tensor_rank", words)
    assert [cell.data.target_class for cell in plan.cells] == list(range(10))
    assert plan_benchmark("tensor_rank", [*words, "classes=range(0,10)"]).cells == plan.cells


def test_an_empty_axis_is_refused():
    with pytest.raises(UserError, match=r"ranks=\[\]|model.rank"):
        plan_benchmark("tensor_rank", ["ranks=[]"])


def test_a_value_that_refers_to_an_axis_is_refused_as_it_would_be_one_for_all():
    given = "optimizer.lr=${model.rank}"
    expected = "^" + re.escape(f"{given}: expected no reference to model.rank, which is an axis")
    with pytest.raises(UserError, match=expected):
        plan_benchmark("tensor_rank", ["model.rank=2", given])
    plan_benchmark("tensor_rank", ["optimizer.lr=${execution.log_every_n_epochs}"])


def test_places_are_left_out_of_the_recorded_command():
    plan = plan_benchmark(
        "tensor_rank",
        ["runs_dir=/a", "++data.root=/b", "sweep.jobs=2", "tracking.entity=me", "ranks=[1]"],
    )
    assert plan.command == "rankbench bench tensor_rank 'ranks=[1]'"


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(FOLDERS[0].rglob("*.yaml")) if path.parent != FOLDERS[0]],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_every_file_composes_against_its_settings(path, tmp_path):
    group, *inner = path.parent.relative_to(FOLDERS[0]).parts
    name = "/".join([*inner, path.stem])
    overrides = [f"{group}={name}"] if group != "benchmark" else []
    if path.stem in ("arrays", "folder"):  # data of the user's own
        np.savez(tmp_path / "mine.npz", x=np.eye(20, dtype=int), y=np.arange(20) % 2)
        for i in range(20):
            (tmp_path / f"class_{i % 2}").mkdir(exist_ok=True)
            Image.new("L", (4, 4), i).save(tmp_path / f"class_{i % 2}" / f"{i}.png")
        own = {"arrays": f"data.file={tmp_path / 'mine.npz'}", "folder": f"data.path={tmp_path}"}
        overrides.append(own[path.stem])
    benchmark = inner[0] if inner else path.stem if group == "benchmark" else "single"
    config = compose([f"benchmark={benchmark}", *overrides])
    for key, node in config.items():
        if isinstance(node, dict) and "_target_" in node:
            load(node, key)


REAL_DATA = ("is_same_class", "regularizer_forms")  # read MNIST by default


@pytest.mark.parametrize(
    "benchmark",
    [
        pytest.param(name, marks=[pytest.mark.real_data] if name in REAL_DATA else [])
        for name in benchmarks()
    ],
)
def test_every_benchmark_s_grid_is_valid(benchmark, tmp_path):
    few = ["data.train=100", "data.test=100", f"data.root={tmp_path}"]  # images that it draws
    drawn = few if benchmark == "pathfinder" else []
    plan = plan_benchmark(benchmark, drawn)
    check(plan.cells, plan.sweep.max_memory)
    keys = sorted(cell.run_key for cell in plan.cells)
    assert len(set(keys)) == len(keys) > 1
    divided = stacks(plan.cells, plan.sweep.max_memory, len(keys))
    assert sorted(cell.run_key for stack in divided for cell in stack) == keys


@pytest.mark.parametrize(
    ("benchmark", "overrides"),
    [
        ("tensor_rank", ["model=tensor_train", "ranks=2000"]),
        ("tensor_rank", ["model=tensor_train", "ranks=99999999999999999999"]),
        ("tensor_rank", ["case=tensor_rank/linear", "ranks=999999999"]),
        ("families", ["case=families/hierarchical", "widths=20000"]),
        ("hierarchical", ["model.width=50000", "model.tree=cp"]),
        ("matrix_completion", ["model.width=9999999"]),
        ("is_same_class", ["data.images=digits", "model=compact_resnet", "model.widths=[100000]"]),
    ],
)
def test_a_model_of_absurd_size_is_refused_before_it_is_built(benchmark, overrides):
    if benchmark == "is_same_class":
        overrides = [*overrides, "model.strides=[1]", "data.image_size=8", "distances=[0]"]
    plan = plan_benchmark(benchmark, overrides)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"sweep.max_memory=3 GB: expected at least .* GB"):
        check(plan.cells, plan.sweep.max_memory)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # kilobytes


def test_the_least_memory_of_a_model_is_below_what_its_training_takes():
    runs = (
        ["model=tensor_train", "model.rank=8"],
        ["model=cp", "model.rank=8"],
        ["model=circuit", "learner=circuits"],
        ["learner=dynamics", "data=matrix_completion", "model=matrix", "trainer=steps"],
    )
    for only in map(lambda overrides: cell(*overrides), runs):
        assert 0 < only.learner.least_memory(only) <= only.learner.memory([only])


def test_the_experiments_of_a_benchmark_are_listed_by_their_folder():
    assert "tensor_rank/published" in [
        f"tensor_rank/{n}" for n in choices("experiment/tensor_rank")
    ]
