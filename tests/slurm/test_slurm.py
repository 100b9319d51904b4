"""A benchmark on a real SLURM: spread, preempted, killed. `make slurm-test` starts one."""

import getpass
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.store.results import load_runs

pytestmark = pytest.mark.slurm

CELLS = ["model=cp", "classes=[0,1]", "ranks=[1,2]", "seeds=[0]"]
STARTED = []
LONG = ["trainer.max_epochs=6000", "trainer.log_every_n_epochs=50", "trainer.checkpoint_every_s=0"]
SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=10"]


def bench(runs_dir, *overrides):
    """Start `rankbench bench` as a user does."""
    command = [sys.executable, "-m", "bench.cli", "bench", "tensor_rank", f"runs_dir={runs_dir}"]
    command += [*CELLS, *overrides]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    STARTED.append(started)
    return started


@pytest.fixture(autouse=True)
def _leave_nothing_behind():
    yield
    for started in STARTED:
        started.kill()
        started.communicate()
    STARTED.clear()
    subprocess.run(["scancel", f"--user={getpass.getuser()}"], check=True)


def queue(states, count=1):
    """Wait until so many jobs are in one of the states; return their ids."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--states={states}"]
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        jobs = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        if len(jobs) >= count:
            return jobs
        time.sleep(0.2)
    raise AssertionError(f"no {count} jobs became {states}")


def wait_for(runs_dir, pattern, count=1):
    """Wait until so many paths match."""
    deadline = time.monotonic() + 120
    while len(list(runs_dir.glob(pattern))) < count:
        assert time.monotonic() < deadline, f"no {count} times {pattern}"
        time.sleep(0.1)


def tasks(variable):
    """Return the processes of jobs' Python that have a variable in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            program, *words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        python = program.rpartition(b"/")[2].startswith(b"python")
        if python and variable.encode() in environment and b"submitit.core._submit" in words:
            found.append(int(folder.name))
    return found


def weights(runs_dir):
    return {path.parent.name: path.read_bytes() for path in runs_dir.glob("*/*/model.pt")}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The weights of the long benchmark, trained undisturbed in one process."""
    folder = tmp_path_factory.mktemp("straight")
    started = bench(folder, *LONG)
    _, error = started.communicate(timeout=300)
    assert started.returncode == 0, error
    return weights(folder)


def test_an_array_of_jobs_gives_what_one_process_gives(tmp_path, straight):
    started = bench(tmp_path, *LONG, *SLURM, "sweep.jobs=2", "hydra.launcher.cpus_per_task=1")
    out, error = started.communicate(timeout=400)
    assert started.returncode == 0, error
    assert "12 of 12 runs done" in out
    assert weights(tmp_path) == straight
    assert len(list(tmp_path.glob("tensor_rank/.jobs/*_result.pkl"))) == 2
    assert (tmp_path / "tensor_rank" / ".jobs").stat().st_mode & 0o777 == 0o700
    assert (load_runs(tmp_path).attempt == 1).all()


def test_a_preempted_job_is_queued_again_and_goes_on(tmp_path, straight):
    started = bench(tmp_path, *LONG, *SLURM, f"hydra.launcher.cpus_per_task={os.cpu_count()}")
    wait_for(tmp_path, "tensor_rank/.stacks/*/stack.json")
    (job,) = queue("RUNNING")
    urgent = ["sbatch", "--partition=high", f"--cpus-per-task={os.cpu_count()}"]
    urgent += ["--output=/dev/null", "--wait", "--wrap=sleep 1"]
    subprocess.run(urgent, check=True, capture_output=True)
    out, error = started.communicate(timeout=400)
    assert started.returncode == 0, error
    assert "12 of 12 runs done" in out
    assert weights(tmp_path) == straight
    attempts = load_runs(tmp_path).attempt
    assert set(attempts) == {1, 2}, f"{job} was not preempted in the middle"


def test_a_killed_job_is_reported_and_the_other_one_counts(tmp_path, straight):
    overrides = [*LONG, *SLURM, "sweep.jobs=2", "hydra.launcher.cpus_per_task=1"]
    started = bench(tmp_path, *overrides)
    wait_for(tmp_path, "tensor_rank/.stacks/*/stack.json")
    job = next(job for job in queue("RUNNING", count=2) if job.endswith("_1"))
    # As the kernel does for lack of memory; SLURM does not always deliver what scancel sends.
    (task,) = tasks("SLURM_ARRAY_TASK_ID=1")
    os.kill(task, signal.SIGKILL)
    out, error = started.communicate(timeout=400)
    assert started.returncode == 1, out
    assert f"job {job} has ended without them" in error
    assert "Traceback" not in error
    finished = weights(tmp_path)
    assert 0 < len(finished) < 12
    assert all(straight[key] == found for key, found in finished.items())
    assert f"{len(finished)} of 12 runs done" in out
    again = bench(tmp_path, *LONG)
    again.communicate(timeout=300)
    assert again.returncode == 0
    assert weights(tmp_path) == straight


def test_a_setting_that_sbatch_refuses_is_one_line(tmp_path):
    started = bench(tmp_path, *SLURM, "hydra.launcher.partition=nowhere")
    _, error = started.communicate(timeout=120)
    assert started.returncode == 2
    assert "nvalid partition" in error.splitlines()[-1]
    assert "Traceback" not in error
