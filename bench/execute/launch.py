"""Where stacks are trained: in this process, in several of this machine, or as jobs of a cluster.

Whatever becomes of a process or a job, what counts as done is what is recorded.
"""

import getpass
import multiprocessing
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection
from typing import Any

import torch
from joblib import cpu_count

from bench import configuration
from bench.core.cell import Cell
from bench.core.errors import UserError, require
from bench.execute.logging_setup import exit_on_signals, follow_parent, quiet_libraries
from bench.execute.run import run
from bench.execute.work import Work
from bench.learners.base import Learner
from bench.store.run_locks import Held

POLL_S = 2.0
QUEUE_POLL_S = 10.0  # clusters ask not to be asked more often
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Called with the work done and the cells that have ended, both in cells, and the mean loss.
OnProgress = Callable[[float, int, float], None]


def launch(work: Work, on_progress: OnProgress) -> None:
    """Train every pending cell, where the launcher says."""
    here = in_processes if work.sweep.jobs > 1 else in_turn
    raise_file_limit()
    (on_slurm if is_slurm(work.launcher) else here)(work, on_progress)


def is_slurm(launcher: Mapping[str, Any]) -> bool:
    """Return whether Hydra's launcher is that of SLURM.

    Raises
    ------
    UserError
        If it is one that is not supported, or if there is no SLURM.
    """
    kind = launcher.get("_target_", "BasicLauncher").rpartition(".")[2]
    expected = "basic, with sweep.jobs=... for several processes, or submitit_slurm"
    require(kind in ("BasicLauncher", "SlurmLauncher"), f"hydra/launcher with {kind}", expected)
    slurm, expected = kind == "SlurmLauncher", "a machine with SLURM's sbatch and srun"
    require(not slurm or bool(shutil.which("sbatch")), "hydra/launcher=submitit_slurm", expected)
    return slurm


def raise_file_limit() -> None:
    """Allow this process, and those it starts, as many open files as the system permits."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems permit less than they say
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def in_turn(work: Work, on_progress: OnProgress = lambda *_: None) -> None:
    """Train in this process.

    Cells that other processes train are waited for, and taken over if their owner is gone.
    """
    total = len(work.pending())
    while stacks := work.stacks():
        ours = False
        while stacks:
            stack = stacks.pop(0)
            done = total - len(work.pending())

            def report(learner: Learner, done: int = done) -> None:
                log = learner.run_log
                ended, share = len(log.cells) - len(log.training()), learner.share_done()
                on_progress(done + share * len(log.cells), done + ended, log.mean_loss())

            try:
                run(stack, work.location, report)
            except Held:
                continue
            except Exception as error:
                stacks = work.after(stack, error) + stacks
            ours = True
        if not ours:
            time.sleep(POLL_S)


def in_processes(work: Work, on_progress: OnProgress) -> None:
    """Train each stack in a process of its own, `sweep.jobs` at a time, each with its own cores.

    So a stack that runs out of memory takes no other with it.
    """
    jobs = work.sweep.jobs
    threads = max(1, cpu_count() // jobs)
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    # Torch and W&B are imported once, not by every stack.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "wandb"])
    waiting, total = work.stacks(), len(work.pending())
    live: dict[Any, tuple[Any, list[Cell]]] = {}
    try:
        while waiting or live:
            while waiting and len(live) < jobs:
                ours, theirs = context.Pipe(duplex=False)
                stack = waiting.pop(0)
                process = context.Process(target=_process, args=(work.part(stack), threads, theirs))
                process.start()
                theirs.close()
                live[ours] = (process, stack)
            # A pipe is read as soon as there is something in it, or its process could not end.
            for pipe in connection.wait(list(live), POLL_S):
                waiting = _gather(work, pipe, *live[pipe]) + waiting
                del live[pipe]
            done = total - len(work.pending())
            on_progress(done, done, float("nan"))
    finally:
        for process, _ in live.values():
            process.terminate()
        for process, _ in live.values():
            process.join()


def _process(part: Work, threads: int, result: connection.Connection) -> None:
    follow_parent()
    exit_on_signals()
    quiet_libraries()
    torch.set_num_threads(threads)
    in_turn(part)
    result.send(part.errors)


def _gather(work: Work, pipe: Any, process: Any, stack: list[Cell]) -> list[list[Cell]]:
    """Take over what a process reports; return the stacks to train in place of one that died."""
    try:
        work.errors |= pipe.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return work.after(stack, RuntimeError(f"its process {how}"))
    finally:
        pipe.close()
    process.join()
    return []


class Job:
    """A part of the work as a job of a cluster."""

    def __call__(self, part: Work) -> None:
        """Train the part's cells on the cores that the cluster gave."""
        quiet_libraries()
        raise_file_limit()
        torch.set_num_threads(int(os.environ.get("SLURM_CPUS_PER_TASK", 1)))
        in_turn(part)

    def checkpoint(self, part: Work) -> Any:
        """Return what to queue when preempted: the same, as it goes on from its checkpoints."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, part)


def on_slurm(work: Work, on_progress: OnProgress) -> None:
    """Train on SLURM: one array of `sweep.jobs` jobs, among which the stacks are divided."""
    stacks, jobs = work.stacks(), work.sweep.jobs
    groups = [stacks[i::jobs] for i in range(min(jobs, len(stacks)))]
    chunks = [[cell for stack in group for cell in stack] for group in groups]
    total = len(work.pending())
    submitted = _submit(work, [work.part(chunk) for chunk in chunks])
    while _queued({job.job_id for job in submitted}):
        done = total - len(work.pending())
        on_progress(done, done, float("nan"))
        time.sleep(QUEUE_POLL_S)
    pending = work.pending()
    for job, chunk in zip(submitted, chunks, strict=True):
        lost = [cell.run_key for cell in chunk if cell.run_key in pending]
        why = f"job {job.job_id} has ended without them; see {job.paths.stderr}"
        work.errors |= dict.fromkeys(lost, why)


def _submit(work: Work, parts: Sequence[Work]) -> list[Any]:
    """Submit an array of jobs with the settings of Hydra's launcher."""
    if not parts:
        return []
    from submitit import AutoExecutor
    from submitit.core.utils import FailedJobError

    folder = work.location.folder / ".jobs"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)  # what lies there is unpickled, that is, executed
    # The jobs import what the folders of --config-dir hold.
    paths = [*map(str, configuration.FOLDERS[1:]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    again = work.launcher["max_num_timeout"]
    executor = AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=again)
    own = ("_target_", "submitit_folder", "max_num_timeout")
    asked = {name: value for name, value in work.launcher.items() if name not in own}
    asked["name"] = work.location.benchmark
    try:
        executor.update_parameters(**{f"slurm_{name}": value for name, value in asked.items()})
        return executor.map_array(Job(), parts)
    except FailedJobError as error:
        message = str(error).strip().splitlines()[-1]
        raise UserError("hydra.launcher", f"settings that sbatch takes ({message})") from error


def _queued(ids: set[str]) -> bool:
    """Return whether any of the jobs waits or runs.

    `squeue`, unlike `sacct`, which submitit asks, does not need an accounting database.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    asked = subprocess.run(command, capture_output=True, text=True)
    return asked.returncode != 0 or bool(ids & set(asked.stdout.split()))
