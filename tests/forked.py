"""Commands in processes of their own, forked from one that has imported what trains."""

import multiprocessing
import os

from bench.cli import main


def start(arguments, folder, **variables):
    """Start `rankbench` with these arguments in a folder, and return the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.execute.launch", "wandb"])
    process = context.Process(target=_run, args=(arguments, folder, variables))
    process.start()
    return process


def run(arguments, folder, **variables):
    """Run `rankbench` with these arguments in a folder; return its exit code and its output."""
    process = start(arguments, folder, **variables)
    process.join(timeout=300)
    return process.exitcode, (folder / "output").read_text()


def _run(arguments, folder, variables):
    os.environ.update(variables)
    os.chdir(folder)
    with open("output", "w") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
    main(arguments)
