"""Checkpoints: training goes on from a whole one to the same numbers, and anew from any other."""

import hashlib
import json

import pytest
import torch
from hooked import after_intervals

from bench.execute.checkpoints import checkpointed, stack_folder
from bench.execute.run import run
from bench.plan import plan_benchmark
from bench.store.location import RunLocation
from bench.store.record import read_record
from bench.store.wandb_runs import TrackingConfig

pytestmark = pytest.mark.usefixtures("toy_config")

CUT = 3


@pytest.fixture
def cells():
    words = ["ranks=[1,2]", "seeds=[0]", "learner.intervals=6", "execution.checkpoint_every_s=0"]
    return plan_benchmark("toy", words).cells


def at(folder):
    return RunLocation(folder, "toy", TrackingConfig(mode="disabled"))


def cut_short(cells, folder, monkeypatch):
    """Train until an interruption; return the checkpoint."""
    seen = []

    def interrupt(learner):
        seen.append(learner)
        if len(seen) == CUT:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        after_intervals(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(cells, at(folder))
    (path,) = folder.glob("toy/.stacks/*/*.ckpt")
    return path


def records(cells, folder):
    return [read_record(folder / "toy" / cell.run_key / "record.json") for cell in cells]


def test_an_interrupted_stack_ends_with_the_same_numbers(cells, tmp_path, monkeypatch):
    run(cells, at(tmp_path / "straight"))
    path = cut_short(cells, tmp_path / "cut", monkeypatch)
    assert [r.status for r in records(cells, tmp_path / "cut")] == ["stopped", "stopped"]
    manifest = json.loads((path.parent / "stack.json").read_text())
    manifest |= {"elapsed_s": 1000.0, "instruction_sets": ["OTHER"], "threads": [77]}
    (path.parent / "stack.json").write_text(json.dumps(manifest))
    intervals = []
    run(cells, at(tmp_path / "cut"), intervals.append)
    assert len(intervals) == 6 - (CUT - 1)  # the last one was not kept
    for straight, resumed in zip(
        *(records(cells, tmp_path / name) for name in ("straight", "cut")), strict=True
    ):
        assert resumed.metrics == straight.metrics
        assert resumed.curve == straight.curve
        assert resumed.attempt == 2
        assert resumed.wall_time_s > 1000
        assert "OTHER" in resumed.host.instruction_sets
        assert resumed.host.threads == tuple(sorted({77, torch.get_num_threads()}))
        weights = [
            tmp_path / name / "toy" / straight.run_key / "model.pt" for name in ("straight", "cut")
        ]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not list(tmp_path.glob("cut/toy/.stacks/*"))


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def put(state):
    """Replace a checkpoint by another whole one, under the right checksum."""

    def replace(path):
        torch.save(state, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(path.with_name(f"{digest}.ckpt"))
        manifest = json.loads((path.parent / "stack.json").read_text())
        (path.parent / "stack.json").write_text(json.dumps({**manifest, "checkpoint": digest}))

    return replace


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("code in a checkpoint was executed",))


def of_a_manifest(damage):
    return lambda path: damage(path.parent / "stack.json")


def other_keys(path):
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "run_keys": ["a"]}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "damaged or missing checkpoint"),
        (cut_in_half, "damaged or missing checkpoint"),
        (lambda path: path.unlink(), "damaged or missing checkpoint"),
        (of_a_manifest(cut_in_half), "no readable stack.json"),
        (of_a_manifest(other_keys), "no readable stack.json"),
        (of_a_manifest(lambda path: path.unlink()), "no readable stack.json"),
        (put({"log": 1}), "unfit checkpoint"),
        (put([1, 2]), "unfit checkpoint"),
        (put({"evil": Evil()}), "unfit checkpoint"),
    ],
)
def test_a_checkpoint_that_is_not_ours_is_not_used_and_that_is_reported(
    cells, tmp_path, monkeypatch, caplog, damage, message
):
    path = cut_short(cells, tmp_path, monkeypatch)
    damage(path)
    intervals = []
    run(cells, at(tmp_path), intervals.append)
    assert len(intervals) == 6
    assert [r.status for r in records(cells, tmp_path)] == ["max_steps", "max_steps"]
    assert message in caplog.text
    assert "start anew" in caplog.text


def test_a_kill_between_checkpoint_and_manifest_leaves_the_older_one(cells, tmp_path, monkeypatch):
    path = cut_short(cells, tmp_path, monkeypatch)
    newer = path.with_name(f"{'0' * 64}.ckpt")  # there, and not named by the manifest
    newer.write_bytes(b"newer")
    intervals = []
    run(cells, at(tmp_path), intervals.append)
    assert len(intervals) == 6 - (CUT - 1)


def test_a_stack_is_found_by_its_cells(cells, tmp_path, monkeypatch):
    path = cut_short(cells, tmp_path, monkeypatch)
    keys = tuple(cell.run_key for cell in cells)
    assert list(checkpointed(tmp_path / "toy")) == [keys]
    assert path.parent == stack_folder(tmp_path / "toy", keys[::-1])  # in whatever order


def test_an_error_while_training_goes_on_is_not_taken_for_an_unfit_checkpoint(
    cells, tmp_path, monkeypatch
):
    cut_short(cells, tmp_path, monkeypatch)

    def fail(learner):
        raise ArithmeticError("later")

    with pytest.raises(ArithmeticError):
        run(cells, at(tmp_path), fail)
    assert len(list(tmp_path.glob("toy/.stacks/*/*.ckpt"))) == 1
