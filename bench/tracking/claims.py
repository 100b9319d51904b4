"""Who trains which run, where several processes or machines share a folder of runs.

The n-th attempt at a run belongs to the one that could create ``attempt.n`` in the run's folder.
That file is a hard link to its owner's file: so linking claims a run at once or not at all, over
NFS too, and one touch of the owner's file is the heartbeat of all its claims. Claims stay, so that
the number of an attempt is never given twice; an owner that ends empties its file.
"""

import json
import os
import platform
import threading
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


class Held(Exception):
    """Every run that was asked for is being trained by another process."""


class Claims:
    """The runs of a benchmark that this owner may train, for as long as the context is open.

    Parameters
    ----------
    folder : Path
        The folder of the benchmark's runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.owner = folder / OWNERS / uuid.uuid4().hex
        self.attempts: dict[str, int] = {}
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Claims":
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
        """Claim the next attempt of each run that no living owner holds.

        Where another process is claiming the same runs at this moment, the rest is left to it.
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
    """Return the number of attempts at a run that were claimed so far."""
    try:
        names = os.listdir(run)
    except FileNotFoundError:
        return 0
    return max(
        (int(n[8:]) for n in names if n.startswith("attempt.") and n[8:].isdigit()), default=0
    )


def is_held(claim: Path, now: float) -> bool:
    """Return whether the owner of a claim lives: it has not ended and its heart beats.

    An owner on this machine whose process is gone does not live either, whatever its last beat.
    """
    try:
        beat, text = claim.stat().st_mtime, claim.read_text()
    except FileNotFoundError:
        return False
    if not text or now - beat > GONE_AFTER_S:
        return False
    owner = json.loads(text)
    pid, since = owner["process"]
    return owner["machine"] != machine() or started(pid) == since


@cache
def machine() -> str:
    """Return a name, without meaning to a reader, of where process numbers are unique."""
    parts = [platform.node()]
    with suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            os.readlink("/proc/self/ns/pid"),
        ]
    return sha256("".join(parts).encode()).hexdigest()[:16]


def started(pid: int) -> str | None:
    """Return when a process started, in clock ticks; None if it has ended or nobody can tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]  # a zombie has ended
