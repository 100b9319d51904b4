"""Bad input: one line that says what was given and what is expected, exit code 2, nothing left."""

import subprocess
import sys

import numpy as np
import pytest
import yaml

from bench.cli import SUMMARIES
from bench.configuration import CONFIG_DIR, benchmarks

BAD = {
    "unknown benchmark": (["bench", "tensor_ranks"], "tensor_rank"),
    "an override for a benchmark": (["bench", "ranks=1,2"], "a name"),
    "unknown variant": (["bench", "tensor_rank", "variants=[original,blurred]"], "random_labels"),
    "unknown single variant": (["bench", "tensor_rank", "variant=blurred"], "random_labels"),
    "unknown data set": (["bench", "tensor_rank", "data=imagenet"], "fashion_mnist"),
    "rank 0": (["bench", "tensor_rank", "ranks=[1,0]"], "greater than or equal to 1"),
    "rank that is no number": (["bench", "tensor_rank", "ranks=[two]"], "model.rank"),
    "no ranks": (["bench", "tensor_rank", "ranks=[]"], "a list"),
    "an axis by both of its names": (
        ["bench", "tensor_rank", "model.rank=3", "ranks=1,2"],
        "model.rank beside ranks",
    ),
    "a seed twice": (["bench", "tensor_rank", "seeds=0,0"], "each value once"),
    "no axes": (["bench", "tensor_rank", "benchmark.axes={}"], "{} changes nothing"),
    "a measure of other problems": (
        ["bench", "norms_or_rank", "learner.measures=[tubal_angles]"],
        "leave tubal_angles out of learner.measures",
    ),
    "class out of range": (["bench", "tensor_rank", "classes=[10]"], "0 to 9"),
    "levels 1": (["bench", "tensor_rank", "data.levels=1"], "greater than or equal to 2"),
    "levels beyond the data": (["bench", "tensor_rank", "data.levels=18"], "from 2 to 17"),
    "batch larger than the data": (["bench", "tensor_rank", "data.batch_size=1438"], "1 to 1437"),
    "negative seed": (["bench", "tensor_rank", "seeds=[-1]"], "greater than or equal to 0"),
    "misspelt key": (["bench", "tensor_rank", "model.rnk=3"], "did you mean rank?"),
    "misspelt shorthand": (["bench", "tensor_rank", "rank=[1]"], "rank"),
    "misspelt shorthand of several": (["bench", "tensor_rank", "rank=1,2"], "mean ranks?"),
    "misspelt group": (["run", "modle.rank=1"], "did you mean model?"),
    "an added group": (["run", "+foo.bar=1"], "one of variant, seed"),
    "a forced axis": (["bench", "tensor_rank", "++rankss=[1]"], "did you mean ranks?"),
    "a key that no benchmark has": (["bench", "theory", "+benchmark.case=[a]"], "mean cases?"),
    "a grid for one run": (["run", "benchmark.axes={seed: [1]}"], "one configuration is run"),
    "a setting of Hydra's own": (["run", "hydra.job.name=x"], "hydra.launcher"),
    "a sweeper of Hydra's": (["run", "hydra/sweeper=basic"], "hydra.launcher"),
    "no model": (["run", "model=null"], "must be a string"),
    "misspelt execution of data": (["data", "digits", "execution.rot=x"], "did you mean root?"),
    "several folders": (["bench", "tensor_rank", "runs_dir=a,b"], "the axis runs_dir"),
    "an interval of ranks": (["bench", "tensor_rank", "ranks=interval(0,1)"], "range(1,3)"),
    "an interval in a multirun": (["run", "-m", "optimizer.lr=interval(0,1)"], "range(1,3)"),
    "a pattern of models": (["bench", "tensor_rank", "model=glob(*)"], "range(1,3)"),
    "misspelt added key": (["bench", "tensor_rank", "+model.rnk=3"], "init_mean"),
    "no override at all": (["bench", "tensor_rank", "nonsense"], "key=value"),
    "broken override": (["bench", "tensor_rank", "ranks=[1"], "key=value"),
    "memory below one predictor": (["bench", "tensor_rank", "sweep.max_memory=1e-6"], "at least"),
    "unknown tracking mode": (["run", "tracking.mode=cloud"], "'offline', 'online' or 'disabled'"),
    "unknown accelerator": (["run", "trainer.accelerator=abacus"], "auto or cpu"),
    "an accelerator that is not there": (["run", "trainer.accelerator=tpu"], "auto or cpu"),
    "no epochs": (["run", "trainer.max_epochs=0"], "greater than or equal to 1"),
    "an argument that no Trainer has": (["run", "trainer.max_epoch=3"], "did you mean max_epochs?"),
    "no batches to accumulate": (
        ["bench", "hierarchical", "trainer.accumulate_grad_batches=0"],
        "trainer.accumulate_grad_batches=0: expected a number",
    ),
    "epochs beside the run key": (
        ["bench", "hierarchical", "execution.trainer.max_epochs=1"],
        "is set as trainer.max_epochs",
    ),
    "a logger without a Trainer": (["run", "trainer.logger=true"], "trainer.devices alone"),
    "no mapping of a Trainer's arguments": (["run", "execution.trainer=null"], "execution.trainer"),
    "a Trainer's argument without effect": (["run", "trainer.precision=16-true"], "max_epochs"),
    "another optimizer's steps": (["run", "optimizer=sgd"], "optimizer=adam"),
    "a regularizer without effect": (["run", "regularizer=published"], "no regularizer"),
    "values without -m": (["run", "model.rank=1,2"], "-m"),
    "bad value in a multirun": (["run", "-m", "model.rank=1,0"], "greater than or equal to 1"),
    "missing data root": (["run", "data=mnist", "data.root=nowhere"], "RANKBENCH_DATA"),
    "an empty run folder": (["bench", "tensor_rank", "runs_dir="], "folder"),
    "no data set": (["bench", "tensor_rank", "data=null"], "data"),
    "a key of its own": (["bench", "tensor_rank", "+mine=1"], "exist"),
    "two benchmarks": (["bench", "tensor_rank", "benchmark=hierarchical"], "second benchmark"),
    "a report of another kind": (
        ["bench", "tensor_rank", "benchmark.report.title=mine"],
        "configs/benchmark/tensor_rank.yaml",
    ),
    "a data set under another name": (["run", "data.name=mine"], "data.name"),
    "a target that is no settings": (["run", "data._target_=os.system"], "--config-dir"),
    "a model that no memory holds": (
        ["run", "model.rank=99999999999999999999"],
        "sweep.max_memory",
    ),
    "arrays without a file": (["bench", "tensor_rank", "data=arrays"], "set data.file"),
    "a file that is not there": (
        ["bench", "tensor_rank", "data=arrays", "data.file=a.npz"],
        "x and y",
    ),
    "a folder that is not there": (
        ["run", "data=folder", "data.path=photos"],
        "one folder per class",
    ),
    "a class of data without classes": (
        ["bench", "tensor_rank", "data=cp_completion", "learner=dynamics"],
        "data.target_class=all",
    ),
    "half a rank": (["bench", "tensor_rank", "ranks=[1.5]"], "model.rank"),
    "a learning rate of NaN": (["bench", "tensor_rank", "optimizer.lr=nan"], "optimizer.lr"),
    "step size 0": (["run", "optimizer.lr=0"], "optimizer.lr"),
    "one bad value of several": (["bench", "tensor_rank", "data.levels=2,300"], "from 2 to 17"),
    "a model for another learner": (["run", "model=matrix"], "PredictorConfig"),
    "a launcher that is not there": (["run", "hydra/launcher=joblib"], "basic"),
    "a group taken away": (["run", "~model"], "without + or ~"),
    "a problem for another learner": (["run", "data=cp_completion"], "ImageData"),
    "a trainer for another learner": (["run", "trainer=steps"], "trainer"),
    "unknown command": (["bnech"], "bnech"),
    "no command": ([], "--help"),
    "table without runs": (["table", "tensor_rank"], "rankbench bench tensor_rank"),
    "table of nothing": (["table", "nothing"], "tensor_rank"),
    "compare without a metric": (["compare", "tensor_rank"], "--metric"),
    "compare without a factor": (["compare", "tensor_rank", "--metric", "train_error"], "--by"),
    "compare without runs": (
        ["compare", "tensor_rank", "--by", "variant", "--metric", "train_error"],
        "rankbench bench tensor_rank",
    ),
    "table from W&B without runs": (
        ["table", "tensor_rank", "--from", "wandb"],
        "rankbench bench tensor_rank",
    ),
    "table from elsewhere": (["table", "tensor_rank", "--from", "csv"], "--from"),
    "report without runs": (["report", "--from", "runs"], "rankbench bench tensor_rank"),
    "no runs": (["runs"], "runs_dir"),
    "sync of other settings": (["sync", "model.rank=3"], "runs_dir, results_dir"),
    "sync of nothing": (["sync", "runs_dir=nowhere"], "recorded runs"),
    "a folder that is no path": (["sync", "runs_dir=null"], "the path of a folder"),
    "data with a model": (["data", "digits", "model.rank=3"], "settings in data"),
    "data by two names": (["data", "digits", "data=mnist"], "a name such as digits"),
    "unknown data": (["data", "nothing"], "mnist"),
    "no such config folder": (["table", "tensor_rank", "--config-dir", "nowhere"], "existing"),
    "no room for a path": (["data", "pathfinder", "data.scene.length=60"], "data.scene.length"),
    "odd sample count": (["data", "pathfinder", "data.train=7"], "multiple of 2"),
    "unknown experiment": (["bench", "tensor_rank", "experiment=huge"], "tensor_rank/published"),
    "a preset, as there were": (["bench", "tensor_rank", "preset=quick"], "preset"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_is_one_line_and_leaves_nothing(case, rankbench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torchvision.datasets.MNIST.download", _no_network)
    arguments, hint = BAD[case]
    code, out, error = rankbench(*arguments)
    assert code == 2
    assert out == ""
    assert error.startswith("rankbench: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert hint in error
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == []


@pytest.mark.parametrize(
    ("path", "text", "words", "hint"),
    [
        ("data/mine.yaml", "_target_: [oops", ["data=mine"], "mine.yaml"),
        ("data/mine.yaml", "levels: 2", ["data=mine"], "data._target_"),
        ("controls/raises.py", "raise OSError('no disk')", ["variants=[raises]"], "no disk"),
        ("controls/leaves.py", "import sys; sys.exit(3)", ["variants=[leaves]"], "SystemExit: 3"),
        ("benchmark/mine.yaml", "- a list", [], "benchmark.name: mine"),
        ("benchmark/mine.yaml", "name: mine\naxes: [1, 2]", [], "benchmark.axes"),
        ("benchmark/mine.yaml", "name: mine\naxes: {seed: [1]}\ncases: 5", [], "cases=5"),
    ],
)
def test_a_mistake_in_a_folder_of_one_s_own_is_one_line(
    path, text, words, hint, rankbench, tmp_path, monkeypatch
):
    monkeypatch.setattr("bench.configuration.FOLDERS", [CONFIG_DIR])
    monkeypatch.setattr("sys.path", [*sys.path])
    own = tmp_path / path
    own.parent.mkdir()
    own.write_text(text)
    name = "mine" if path.startswith("benchmark") else "tensor_rank"
    call = ["bench", name, "--config-dir", str(tmp_path), *words, f"runs_dir={tmp_path / 'runs'}"]
    code, out, error = rankbench(*call)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert hint in error
    assert not (tmp_path / "runs").exists()


def _no_network(self):
    raise RuntimeError("no network")


@pytest.mark.parametrize(
    "command", [["bench", "tensor_rank"], ["perf"], ["data", "digits", "--show"]]
)
def test_a_results_folder_that_cannot_be_written_is_found_before_any_training(
    command, rankbench, tmp_path
):
    blocked = tmp_path / "results"
    blocked.write_text("a file where the folder should be")
    words = ["--out", str(blocked)] if command == ["perf"] else [f"results_dir={blocked}"]
    runs = [] if command == ["perf"] else [f"runs_dir={tmp_path / 'runs'}"]
    code, out, error = rankbench(*command, *words, *runs)
    assert code == 2
    assert out == ""
    assert f"={blocked}" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("record.json"))


def test_a_run_folder_that_cannot_be_written_is_named(rankbench, tmp_path):
    blocked = tmp_path / "runs"
    blocked.write_text("a file where the folder should be")
    code, _, error = rankbench("run", f"runs_dir={blocked}")
    assert code == 2
    assert f"runs_dir={blocked}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_command_explains_itself_with_an_example(name, rankbench):
    code, out, _ = rankbench(name, "--help")
    assert code == 0
    assert f"Example: rankbench {name}" in out


def test_one_wandb_run_id_cannot_name_several_runs(rankbench, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    for words in (["bench", "tensor_rank"], ["run", "-m", "seed=0,1"]):
        code, out, error = rankbench(*words, f"runs_dir={tmp_path}")
        assert (code, out) == (2, "")
        assert "unset WANDB_RUN_ID" in error
    assert list(tmp_path.rglob("*.json")) == []


def test_data_says_what_is_there_and_what_is_not(rankbench, tmp_path):
    words = ["--show", f"data.root={tmp_path / 'data'}", f"results_dir={tmp_path / 'shown'}"]
    code, out, error = rankbench("data", *words)
    assert code == 0
    assert "1,437 + 360" in out
    assert "inside a dependency" in out
    assert out.count("missing or damaged") == 8
    assert "yours: set data.file" in out
    assert "without MNIST/raw/train-images-idx3-ubyte" in error
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert [*map(str, files)] == ["shown/digits_samples.png"]  # nothing is downloaded unasked


def test_a_benchmark_is_described_before_it_is_run(rankbench, tmp_path):
    folder = f"runs_dir={tmp_path / 'runs'}"
    code, out, _ = rankbench("bench")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()} == set(benchmarks())
    code, out, _ = rankbench("bench", "tensor_rank", "--help")
    assert code == 0
    assert "ranks=1,2,3,5,8  (model.rank)" in out
    assert "experiment=tensor_rank/published" in out
    words = ["tensor_rank", "model=cp", "classes=3,5", "ranks=1,2", "seeds=0", folder]
    code, out, _ = rankbench("bench", *words, "--dry-run")
    assert code == 0
    assert "12 cells in 2 stacks" in out
    code, out, _ = rankbench("run", "model.rank=3", folder, "--cfg", "job")
    assert code == 0
    assert yaml.safe_load(out)["model"]["rank"] == 3
    assert list(tmp_path.iterdir()) == []


def test_own_arrays_are_benchmarked_by_one_command_that_names_no_folder(rankbench, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=rng.integers(2, size=(60, 5)), y=np.arange(60) % 3)
    words = [f"data.file={tmp_path / 'mine.npz'}", f"runs_dir={tmp_path / 'runs'}"]
    words += ["ranks=1", "seeds=0", "trainer.max_epochs=2"]
    code, out, error = rankbench("bench", "tensor_rank", "data=arrays", *words)
    assert code == 0, error
    assert "## mine.npz" in out
    records = [path.read_text() for path in tmp_path.glob("runs/*/*/record.json")]
    assert len(records) == 18  # three classes, three variants, and a linear model beside
    assert not any(str(tmp_path) in record for record in records)
    assert all("data.file=mine.npz" in record for record in records)


@pytest.mark.parametrize("shape", [(5,), (4, 4), (4, 6, 3)], ids=str)
def test_samples_of_any_shape_are_drawn(shape, rankbench, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", x=rng.random((30, *shape)), y=np.arange(30) % 3)
    words = [f"data.file={tmp_path / 'mine.npz'}", f"results_dir={tmp_path}"]
    code, _, error = rankbench("data", "arrays", "--show", *words)
    assert code == 0, error
    assert (tmp_path / "mine.npz_samples.png").read_bytes().startswith(b"\x89PNG")


def test_data_draws_pathfinder_and_shows_samples(rankbench, tmp_path):
    words = ["data.train=40", "data.test=2", f"data.root={tmp_path}", f"results_dir={tmp_path}"]
    code, out, _ = rankbench("data", "pathfinder", "--show", *words)
    assert code == 0
    assert "40 + 2" in out
    assert "150 x 150" in out
    assert (tmp_path / "pathfinder_samples.png").stat().st_size > 10_000
    assert len(list((tmp_path / "pathfinder").iterdir())) == 1


@pytest.mark.real_data
def test_data_verifies_real_files(rankbench):
    code, out, _ = rankbench("data", "mnist")
    assert code == 0
    assert "verified" in out
    assert "train-images-idx3-ubyte ba891046e6505d7a" in out


@pytest.mark.parametrize(
    "verb",
    [["table"], ["compare", "--by", "variant", "--metric", "train_error"], ["runs"]],
    ids=lambda words: words[0],
)
def test_verbs_that_read_do_without_what_trains(verb, made_up_runs, tmp_path):
    made_up_runs(tmp_path)
    name = [] if verb == ["runs"] else ["tensor_rank"]
    words = [verb[0], *name, *verb[1:], f"runs_dir={tmp_path}"]
    heavy = {"torch", "pytorch_lightning", "wandb", "matplotlib"}
    code = f"import sys\nfrom bench.cli import main\ntry:\n    main({words})\n"
    code += f"finally:\n    print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_output_is_no_error(closed, made_up_runs, tmp_path):
    made_up_runs(tmp_path, ranks=(1,), seeds=(0,))
    call = f'"$0" -m bench.cli runs "runs_dir=$1" {closed}'
    done = subprocess.run(["bash", "-c", call, sys.executable, tmp_path], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
