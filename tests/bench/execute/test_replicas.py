"""Several devices that train one run: as one does, resumed, and refused where they cannot."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from bench.execute.run import run
from bench.plan import plan_run
from bench.store.location import RunLocation
from bench.store.record import read_record
from bench.store.wandb_runs import TrackingConfig

EXACT = ["trainer.accelerator=cpu", "trainer.precision=64-true", "trainer.max_epochs=4"]
EXACT += ["regularizer=published", "regularizer.coefficient=0.5", "execution.log_every_n_epochs=2"]
# The batches have 33, 33, 33 and 3 samples
NETWORK = ["data=is_same_class", "data.images=digits", "data.image_size=8", "data.canvas=[8,32]"]
NETWORK += ["data.train=102", "data.test=70", "model=compact_resnet", "model.stem=[4,3,2]"]
NETWORK += ["model.widths=[8,8]", "model.strides=[2,2]", "learner=classification"]
NETWORK += ["learner.batch_size=33", *EXACT]
OTHER_FORM = ["patches_per_sample", "swap_differing", "freeze_statistics"]
CIRCUIT = ["model=circuit", "learner=circuits", "model.width=2", "data.batch_size=333", *EXACT]
SCENE = "drawn_size=64 image_size=32 length=3 dash_length=3 disc_radius=3 gap=2 padding=1"
SCENE += " start_border=6 start_distance=9 distractor_dashes=3"
RESNET = ["experiment=pathfinder/published", *(f"data.scene.{word}" for word in SCENE.split())]
RESNET += ["data.train=16", "data.test=64", "learner.batch_size=8", *EXACT[:2]]
RESNET += ["trainer.max_epochs=1"]
RUNS = {
    "published": [*NETWORK, "regularizer.every=2"],
    "other form": [*NETWORK, *(f"regularizer.{name}=true" for name in OTHER_FORM)],
    "circuit": CIRCUIT,
    "published ResNet": RESNET,
}


def finish(folder, overrides, on_progress=lambda learner: None):
    """Return the metrics and weights of a run after it has been recorded in a folder."""
    (cell,) = plan_run(overrides).cells
    cell.learner.check([cell])
    location = RunLocation(folder, "single", TrackingConfig(mode="disabled"))
    run([cell], location, on_progress)
    record = read_record(location.folder / cell.run_key / "record.json")
    model = torch.load(location.folder / cell.run_key / "model.pt", weights_only=True)
    return record.metrics, model


def tensors(model):
    """Yield the tensors of a nested dictionary, in order."""
    for value in model.values():
        if isinstance(value, dict):
            yield from tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value


@pytest.mark.slow
@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_two_devices_train_as_one_does(tmp_path, overrides):
    one, weights = finish(tmp_path / "one", overrides)
    two, shared = finish(tmp_path / "two", [*overrides, "trainer.devices=2"])
    assert two == pytest.approx(one, rel=1e-8)
    for got, want in zip(tensors(shared), tensors(weights), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)
    assert not distributed.is_initialized()
    assert "LOCAL_RANK" not in os.environ


def test_two_devices_go_on_from_a_checkpoint_bit_for_bit(tmp_path):
    overrides = [*RUNS["published"], "trainer.devices=2", "model.dropout=0.3"]
    overrides += ["trainer.max_epochs=6"]
    whole, weights = finish(tmp_path / "whole", overrides)
    overrides += ["execution.checkpoint_every_s=0"]

    class Interrupted(Exception):
        pass

    measured = []

    def interrupt(learner):
        if measured:  # after the checkpoint of the first measurement
            raise Interrupted
        measured.append(learner.epochs_done)

    with pytest.raises(Interrupted):
        finish(tmp_path / "parts", overrides, interrupt)
    resumed = []
    parts, again = finish(tmp_path / "parts", overrides, lambda it: resumed.append(it.epochs_done))
    assert (measured, resumed) == ([2], [4, 6])
    assert parts == whole
    assert all(map(torch.equal, tensors(again), tensors(weights)))


def test_devices_draw_dropout_of_their_own():
    (cell,) = plan_run(RUNS["published"]).cells
    learner, drawn = cell.learner.build([cell]), []
    for learner.rank in (0, 1, 0):
        learner.on_train_epoch_start()
        drawn.append(torch.rand(8).tolist())
    assert drawn[0] == drawn[2] != drawn[1]


class MeanSquare(nn.Module):
    """A penalty of one's own that looks at each sample alone."""

    def evaluate(self, network, inputs, targets):
        outputs = network(inputs)
        return outputs, outputs.square().mean()


def test_a_penalty_on_samples_alone_is_shared_out():
    (cell,) = plan_run(RUNS["published"]).cells
    learner = cell.learner.build([cell])
    learner.network.eval()
    learner.regularizer = MeanSquare()
    images, labels = learner.parts["train"][torch.arange(33)]
    outputs, penalty = learner.evaluate(images, labels, True)
    learner.devices, parts = 2, []
    for learner.rank in (0, 1):
        parts.append(learner.evaluate(images, labels, True))
    assert [len(part) for part, _ in parts] == [16, 17]
    torch.testing.assert_close(torch.cat([part for part, _ in parts]), outputs)
    torch.testing.assert_close(sum(share for _, share in parts), penalty)


def test_a_run_fails_with_one_of_its_devices(tmp_path):
    def kill_other(learner):
        (other,) = multiprocessing.active_children()
        os.kill(other.pid, signal.SIGKILL)

    with pytest.raises(RuntimeError):
        finish(tmp_path, [*RUNS["published"], "trainer.devices=2"], kill_other)
    assert not multiprocessing.active_children()
    assert not distributed.is_initialized()


def session(leader):
    """Return the processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until(condition, what):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_a_polite_kill_ends_all_devices(tmp_path):
    overrides = [*RUNS["published"], "trainer.max_epochs=100000", "trainer.devices=2"]
    overrides += ["execution.checkpoint_every_s=0", f"runs_dir={tmp_path}"]
    command = [sys.executable, "-m", "bench.cli", "run", *overrides, "tracking.mode=disabled"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: [*tmp_path.rglob("*.ckpt")], "no checkpoint")
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        wait_until(lambda: not session(process.pid), "a process is left")
    finally:
        for pid in session(process.pid):
            os.kill(pid, signal.SIGKILL)
