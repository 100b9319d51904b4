"""Where stacks are trained: in this process, in several of this machine, or as jobs of a cluster.

Whatever becomes of a process or a job, what counts as done is what is recorded.
"""

import getpass
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from multiprocessing import connection
from typing import Any

import torch

from bench.config import Cell
from bench.errors import UserError, require
from bench.learners.base import Learner
from bench.quiet import quiet_libraries
from bench.run import run
from bench.sweep import Sweep
from bench.tracking.claims import Held

POLL_S = 2.0
QUEUE_POLL_S = 10.0  # clusters ask not to be asked more often
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Called with the work done and the cells that have ended, both in cells, and the mean loss.
OnProgress = Callable[[float, int, float], None]


def launch(sweep: Sweep, on_progress: OnProgress) -> None:
    """Train every pending cell, where the sweep's launcher says."""
    kind = sweep.launcher["_target_"].rpartition(".")[2]
    known = {
        "BasicLauncher": in_processes if sweep.jobs > 1 else in_turn,
        "SlurmLauncher": on_slurm,
    }
    allowed = "basic, with sweep.jobs=... for several processes, or submitit_slurm"
    require(kind in known, f"hydra/launcher with {kind}", allowed)
    known[kind](sweep, on_progress)


def in_turn(sweep: Sweep, on_progress: OnProgress = lambda *_: None) -> None:
    """Train in this process.

    Cells that other processes train are waited for, and taken over if their owner is gone.
    """
    total = len(sweep.pending())
    while stacks := sweep.stacks():
        ours = False
        while stacks:
            stack = stacks.pop(0)
            done = total - len(sweep.pending())

            def report(learner: Learner, done: int = done) -> None:
                share, loss = learner.progress()
                ended = sum(outcome is not None for outcome in learner.outcomes)
                on_progress(done + share * len(learner.cells), done + ended, loss)

            try:
                run(stack, sweep.settings, report)
            except Held:
                continue
            except Exception as error:
                stacks = sweep.after(stack, error) + stacks
            ours = True
        if not ours:
            time.sleep(POLL_S)


def in_processes(sweep: Sweep, on_progress: OnProgress) -> None:
    """Train each stack in a process of its own, `sweep.jobs` at a time, each with its own cores.

    So a stack that runs out of memory takes no other with it.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = max(1, (cores or 1) // sweep.jobs)
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    context = multiprocessing.get_context("forkserver")  # torch is imported once, not once a stack
    context.set_forkserver_preload([__name__])
    waiting, total = sweep.stacks(), len(sweep.pending())
    live: dict[Any, tuple[Any, Any, list[Cell]]] = {}
    try:
        while waiting or live:
            while waiting and len(live) < sweep.jobs:
                ours, theirs = context.Pipe()
                stack = waiting.pop(0)
                part = replace(sweep, cells=stack, jobs=1)
                process = context.Process(target=_process, args=(part, threads, theirs))
                process.start()
                theirs.close()
                live[process.sentinel] = (process, ours, stack)
            for sentinel in connection.wait(list(live), POLL_S):
                waiting = _gather(sweep, *live.pop(sentinel)) + waiting
            done = total - len(sweep.pending())
            on_progress(done, done, float("nan"))
    finally:
        for process, _, _ in live.values():
            process.terminate()
        for process, _, _ in live.values():
            process.join()


def _process(part: Sweep, threads: int, result: connection.Connection) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    quiet_libraries()
    torch.set_num_threads(threads)
    in_turn(part)
    result.send(part.errors)


def _gather(
    sweep: Sweep, process: Any, result: connection.Connection, stack: list[Cell]
) -> list[list[Cell]]:
    """Take over what a process says; return the stacks to train in place of one that died."""
    process.join()
    try:
        sweep.errors |= result.recv()
    except EOFError:
        code = process.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return sweep.after(stack, RuntimeError(f"its process {how}"))
    return []


class Job:
    """A part of a sweep as a job of a cluster."""

    def __call__(self, part: Sweep) -> None:
        """Train the part's cells on the cores that the cluster gave."""
        quiet_libraries()
        torch.set_num_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", 1)))
        in_turn(part)

    def checkpoint(self, part: Sweep) -> Any:
        """Return what to queue when preempted: the same, as it goes on from its checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, part)


def on_slurm(sweep: Sweep, on_progress: OnProgress) -> None:
    """Train on SLURM: one array of `sweep.jobs` jobs, among which the stacks are divided."""
    stacks = sweep.stacks()
    groups = [stacks[i :: sweep.jobs] for i in range(min(sweep.jobs, len(stacks)))]
    chunks = [[cell for stack in group for cell in stack] for group in groups]
    total = len(sweep.pending())
    jobs = _submit(sweep, [replace(sweep, cells=chunk, jobs=1) for chunk in chunks])
    while _queued({job.job_id for job in jobs}):
        done = total - len(sweep.pending())
        on_progress(done, done, float("nan"))
        time.sleep(QUEUE_POLL_S)
    pending = {cell.run_key for cell in sweep.pending()}
    for job, chunk in zip(jobs, chunks, strict=True):
        lost = [cell.run_key for cell in chunk if cell.run_key in pending]
        why = f"job {job.job_id} has ended without them; see {job.paths.stderr}"
        sweep.errors |= dict.fromkeys(lost, why)


def _submit(sweep: Sweep, parts: Sequence[Sweep]) -> list[Any]:
    """Submit an array of jobs with the settings of Hydra's launcher."""
    if not parts:
        return []
    where = "a machine with SLURM's sbatch and srun"
    require(bool(shutil.which("sbatch")), "hydra/launcher=submitit_slurm", where)
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit import AutoExecutor
    from submitit.core.utils import FailedJobError

    again = sweep.launcher["max_num_timeout"]
    executor = AutoExecutor(sweep.folder / ".jobs", cluster="slurm", slurm_max_num_timeout=again)
    own = ("_target_", "submitit_folder", "max_num_timeout")
    shared = [one.name for one in fields(BaseQueueConf)]  # by every kind of cluster
    given = {
        name if name in shared else f"slurm_{name}": value
        for name, value in {**sweep.launcher, "name": sweep.settings.place.benchmark}.items()
        if name not in own
    }
    try:
        executor.update_parameters(**given)
        return executor.map_array(Job(), parts)
    except FailedJobError as error:
        message = str(error).strip().splitlines()[-1]
        raise UserError("hydra.launcher", f"what sbatch takes ({message})", "mend it") from error


def _queued(ids: set[str]) -> bool:
    """Return whether any of the jobs waits or runs.

    `squeue`, unlike `sacct`, which submitit asks, does not need an accounting database.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    asked = subprocess.run(command, capture_output=True, text=True)
    return asked.returncode != 0 or bool(ids & set(asked.stdout.split()))
