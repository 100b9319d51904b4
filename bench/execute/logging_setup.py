"""What is printed beside results, and how a process ends on a signal."""

import logging
import os
import signal
import sys
import warnings

log = logging.getLogger("rankbench")


def quiet_libraries() -> None:
    """Keep progress and tables readable: without the libraries' own notes."""
    os.environ.setdefault("WANDB_SILENT", "true")
    # Those that speak: Lightning sets the level of its top logger itself when it is imported.
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")


def exit_on_signals() -> None:
    """Let a closed terminal and a polite kill end the process as an exception does.

    So runs are recorded as stopped, and child processes are ended. A signal that is ignored, as
    under `nohup`, stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))
