"""What is printed beside results, and how a process ends on a signal."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from multiprocessing import connection

log = logging.getLogger("rankbench")


def quiet_libraries() -> None:
    """Keep progress and tables readable: without the libraries' own notes."""
    os.environ.setdefault("WANDB_SILENT", "true")
    # Those that speak: Lightning sets the level of its top logger itself when it is imported.
    for name in ("pytorch_lightning", "lightning_fabric"):
        for speaker in ("rank_zero", "distributed"):
            logging.getLogger(f"{name}.utilities.{speaker}").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")
    # With one input channel, two orders of a kernel's memory are the same.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")


def exit_on_signals() -> None:
    """Let a closed terminal and a polite kill end the process as an exception does.

    So runs are recorded as stopped, and child processes are ended. A signal that is ignored, as
    under `nohup`, stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


def follow_parent() -> None:
    """Leave it to the parent process to end this one, and end if the parent has ended itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
