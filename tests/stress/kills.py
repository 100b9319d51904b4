"""Kill a benchmark at random moments, again and again; in the end nothing is lost or doubled.

    python tests/stress/kills.py --kills 200
    python tests/stress/kills.py --kills 40 --at-once 4

Every attempt is a real process, forked from one that has imported everything, so that the kills hit
all phases alike: start, data, training, checkpoints, records, table and figure. When the benchmark
is done before the kills are used up, it starts again in an empty folder.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.cli import main
from bench.commands import bench  # noqa: F401 - imported before the forks
from bench.execute import work
from bench.store.record import read_record
from bench.store.tracker import Tracker

OVERRIDES = ["model=cp", "seeds=[0]", "ranks=[1,2]"]
OVERRIDES += ["trainer.max_epochs=60", "trainer.log_every_n_epochs=5"]
OVERRIDES += ["trainer.checkpoint_every_s=0.05"]
CELLS = 60
STACK = 5  # cells at most, so that there are 12 stacks


class Diary:
    """What all processes write down, in order: who begins and ends which run, who is killed."""

    def __init__(self, path):
        self.file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self.path = path

    def note(self, *words):
        os.write(self.file, (" ".join(map(str, words)) + "\n").encode())

    def watch_trackers(self):
        """Note the runs that a tracker in this process, or in a fork of it, begins and ends."""
        begin, end = Tracker._begin, Tracker._end

        def noted_begin(tracker):
            begin(tracker)
            for key in tracker.locks.attempts:
                self.note("begin", os.getpid(), key)

        def noted_end(tracker, error):
            for key in tracker.locks.attempts:
                self.note("end", os.getpid(), key)
            end(tracker, error)

        Tracker._begin, Tracker._end = noted_begin, noted_end

    def overlaps(self):
        """Return the runs that one process began while another one was at them."""
        holders, found = {}, []
        for line in self.path.read_text().splitlines():
            what, pid, *key = line.split()
            if what == "begin":
                found += [key[0]] if holders.get(key[0], pid) != pid else []
                holders[key[0]] = pid
            elif what == "end":
                holders.pop(key[0], None)
            else:
                holders = {key: holder for key, holder in holders.items() if holder != pid}
        return found


def start(folder):
    """Fork a process that runs the benchmark; return its number."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(folder.with_suffix(".log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        main(["bench", "tensor_rank", *OVERRIDES, f"runs_dir={folder}"])
    except SystemExit as stop:
        os._exit(stop.code)


def ended(pid):
    """Return the exit code of a process that has ended; None while it lives."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def final_records(folder):
    """Return the final records by run key, with their time of writing."""
    result = {}
    for path in folder.glob("*/*/record.json"):
        if read_record(path).status == "max_steps":
            result[path.parent.name] = (path.stat().st_mtime_ns, path.read_bytes())
    return result


def numbers(folder):
    """Return what must not depend on the kills."""
    return {
        path.parent.name: (
            read_record(path).metrics,
            read_record(path).curve,
            (path.parent / "model.pt").read_bytes(),
        )
        for path in folder.glob("*/*/record.json")
    }


class Round:
    """One benchmark, run to its end through kills."""

    def __init__(self, folder, diary, draw, life, at_once):
        self.folder, self.diary, self.draw, self.life = folder, diary, draw, life
        self.at_once = at_once
        self.killed = self.lost = self.doubled = 0
        self.seen = {}

    def run(self, kills):
        """Go on until the benchmark is done; kill at most so often."""
        running = {}
        while True:
            while len(running) < self.at_once:
                moment = time.monotonic() + self.draw.uniform(0, self.life)
                running[start(self.folder)] = moment
            for pid, moment in list(running.items()):
                code = ended(pid)
                if code is not None:
                    assert code == 0, f"exit code {code}: {self.folder.with_suffix('.log')}"
                    del running[pid]
                    self._finish(running)
                    return
                if time.monotonic() > moment and self.killed < kills:
                    self.diary.note("kill", pid)
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    del running[pid]
                    self.killed += 1
                    self._look()
            time.sleep(0.002)

    def _finish(self, running):
        """Let the other processes end by themselves."""
        for pid in running:
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 0, self.folder.with_suffix(".log")
        self._look()

    def _look(self):
        now = final_records(self.folder)
        self.lost += len(self.seen.keys() - now.keys())
        self.doubled += sum(now[key] != old for key, old in self.seen.items() if key in now)
        self.seen = now


def stress(folder, kills, at_once, seed):
    """Kill so often; return the problems found, and print the numbers."""
    diary = Diary(folder / "diary")
    diary.watch_trackers()
    divide = work.stacks
    work.stacks = lambda cells, memory, most: divide(cells, memory, min(most, STACK))
    began = time.monotonic()
    straight = Round(folder / "straight", diary, random.Random(seed), 0, 1)
    straight.run(0)
    wanted, life = numbers(folder / "straight"), (time.monotonic() - began) / 5
    draw, rounds = random.Random(seed), []
    while not rounds or sum(one.killed for one in rounds) < kills:
        rounds.append(Round(folder / f"round{len(rounds)}", diary, draw, life * at_once, at_once))
        rounds[-1].run(kills - sum(one.killed for one in rounds))
    found = [numbers(one.folder) for one in rounds]
    problems = {
        "lost": sum(one.lost + CELLS - len(one.seen) for one in rounds),
        "doubled": sum(one.doubled for one in rounds),
        "different": sum(one.get(key) != value for one in found for key, value in wanted.items()),
        "trained by two at once": len(diary.overlaps()),
    }
    killed = sum(one.killed for one in rounds)
    print(
        f"{killed} kills, {at_once} processes at once, {len(rounds)} rounds of {len(wanted)} cells"
    )
    print(", ".join(f"{count} {what}" for what, count in problems.items()))
    print(f"{time.monotonic() - began:.0f} s; undisturbed {5 * life:.1f} s a round")
    assert len(wanted) == CELLS
    return sum(problems.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(min(1, stress(Path(scratch), given.kills, given.at_once, given.seed)))
