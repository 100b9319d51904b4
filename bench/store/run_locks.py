"""Who trains which run, where several processes or machines share a folder of runs.

The n-th attempt at a run belongs to the process that managed to create ``attempt.n`` in the run's
folder. That file, the lock, is a hard link to its owner's file: linking locks a run at once or not
at all, over NFS too, and one touch of the owner's file is the heartbeat of all its locks. Locks
stay, so that the number of an attempt is never given twice; an owner that ends empties its file.
"""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

OWNERS = ".owners"
HEARTBEAT_S = 10.0
# Longer than NFS may show an old time of modification (60 s) and a few lost heartbeats.
GONE_AFTER_S = 180.0
PROC = Path("/proc")
_FROM_THE_FUTURE: dict[tuple[Path, float], float] = {}  # when such a heartbeat was first seen


class Held(Exception):
    """Every run that was asked for is being trained by another process, or has ended."""


class RunLocks:
    """The runs of a benchmark that this owner may train, for as long as the context is open.

    Parameters
    ----------
    folder : Path
        The folder of the benchmark's runs.

    Attributes
    ----------
    attempts : dict of str to int
        The locked runs, and the number of the attempt at each.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = folder / OWNERS / uuid.uuid4().hex
        self.attempts: dict[str, int] = {}
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "RunLocks":
        self.owner.parent.mkdir(parents=True, exist_ok=True)
        pid = os.getpid()
        self.owner.write_text(json.dumps({"machine": machine(), "process": [pid, started(pid)]}))
        self._heart.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        with suppress(OSError):  # a full disk; others then wait until the heartbeat is old
            os.truncate(self.owner, 0)
            self.owner.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            with suppress(OSError):
                os.utime(self.owner)

    def take(self, keys: Sequence[str]) -> None:
        """Lock the next attempt at each run that no living owner holds.

        Where another process is locking the same runs at this moment, the rest is left to it.
        """
        os.utime(self.owner)
        now = self.owner.stat().st_mtime  # by the clock that the other heartbeats have
        for key in keys:
            run = self.folder / key
            run.mkdir(parents=True, exist_ok=True)
            last = last_attempt(run)
            if last and is_held(run / f"attempt.{last}", now):
                continue
            try:
                os.link(self.owner, run / f"attempt.{last + 1}")
            except FileExistsError:
                return
            self.attempts[key] = last + 1

    def lost(self, key: str) -> bool:
        """Return whether another owner has taken a run over: we were out of reach for too long."""
        return last_attempt(self.folder / key) != self.attempts[key]


def last_attempt(run: Path) -> int:
    """Return the number of attempts at a run that were begun so far."""
    numbers = (path.suffix[1:] for path in run.glob("attempt.*"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0)


def is_held(lock: Path, now: float) -> bool:
    """Return whether the owner of a lock lives: it has not ended and its heart beats.

    An owner on this machine whose process has certainly ended does not live, whenever its last
    heartbeat was.

    Parameters
    ----------
    lock : Path
        The lock.
    now : float
        The present time, by the clock that dates the heartbeats.
    """
    try:
        beat, text = lock.stat().st_mtime, lock.read_bytes()
    except FileNotFoundError:
        return False
    if not text or not _beats(lock, beat, now):
        return False
    try:
        owner = json.loads(text)
        pid, since = owner["process"]
        here = owner["machine"] == machine()
    except (ValueError, TypeError, KeyError):
        return True  # not what we have written: only its heartbeat counts
    return not (here and has_ended(pid, since))


def _beats(lock: Path, beat: float, now: float) -> bool:
    """Return whether a heartbeat is young enough.

    One from the future says nothing about its age: it counts until we have seen it unchanged for
    as long as any other may be old.
    """
    if beat - now <= GONE_AFTER_S:
        return now - beat <= GONE_AFTER_S
    first_seen = _FROM_THE_FUTURE.setdefault((lock, beat), time.monotonic())
    return time.monotonic() - first_seen <= GONE_AFTER_S


@cache
def machine() -> str:
    """Return an opaque name of the scope in which process numbers are unique."""
    parts = [platform.node()]
    with suppress(OSError):
        boot_id = (PROC / "sys/kernel/random/boot_id").read_text()
        parts += [boot_id, os.readlink(PROC / "self/ns/pid")]
    return sha256("".join(parts).encode()).hexdigest()[:16]


def has_ended(pid: int, since: str | None) -> bool:
    """Return whether a process of this machine has certainly ended.

    Parameters
    ----------
    pid : int
        Its number, which another process may have by now.
    since : str, optional
        What `started` returned while it lived.
    """
    try:
        os.kill(pid, 0)  # sends nothing; unlike /proc, it knows the processes of other users
    except ProcessLookupError:
        return True
    except (OSError, OverflowError, TypeError):
        pass
    now = started(pid)
    return now is not None and since is not None and now != since


def started(pid: int) -> str | None:
    """Return when a process started, in clock ticks, or "ended"; None if nobody can tell."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # no /proc, or one that hides the processes of other users
        return None
    return "ended" if fields[0] == "Z" else fields[19]  # a zombie has ended
