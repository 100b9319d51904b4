"""The processes of the devices that train a run together with this process's own."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from bench.core.cell import Cell
from bench.execute.logging_setup import follow_parent
from bench.learners.interval import fabric_of

Fit = Callable[[Sequence[Cell], Path | None], None]


@contextmanager
def other_devices(fit: Fit, cells: Sequence[Cell], checkpoint: Path | None) -> Iterator[None]:
    """Call `fit` on every device but the first, each in a process of its own, in the meantime.

    Lightning would start this process's whole command anew instead, with its plan and its records.
    What it finds in the environment tells it that its processes have been started.

    Parameters
    ----------
    fit : callable
        Trains the cells from the checkpoint.
    cells : sequence of Cell
        Cells with equal stack keys.
    checkpoint : Path or None
        What all devices go on from.
    """
    devices = fabric_of(cells[0]).world_size
    if devices == 1:
        yield
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([fit.__module__])  # imported once, not by every process
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port())}
    here["NODE_RANK"] = "0"
    places = [{**here, "LOCAL_RANK": str(rank)} for rank in range(devices)]
    kept = {name: os.environ[name] for name in places[0] if name in os.environ}
    others = []
    try:
        for place in places[1:]:
            process = context.Process(target=_replica, args=(place, fit, cells, checkpoint))
            process.start()
            others.append(process)
        os.environ.update(places[0])
        yield
        for process in others:
            process.join()
    finally:
        for name in places[0]:
            os.environ.pop(name, None)
        os.environ.update(kept)
        for process in others:
            process.kill()  # they write nothing
            process.join()
        if distributed.is_initialized():
            distributed.destroy_process_group()


def _replica(
    place: dict[str, str], fit: Fit, cells: Sequence[Cell], checkpoint: Path | None
) -> None:
    follow_parent()
    os.environ.update(place)
    fit(cells, checkpoint)
