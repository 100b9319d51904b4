"""Claims: one owner a run, whoever else wants it, and a new one when the owner is gone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.tracking import claims
from bench.tracking.claims import GONE_AFTER_S, Claims, last_attempt

KEYS = [f"{i:016x}" for i in range(100)]
TAKE_ALL = """
import sys
from pathlib import Path
from bench.tracking.claims import Claims
with Claims(Path(sys.argv[1])) as owner:
    for key in sys.argv[2:]:
        owner.take([key])
    print(*owner.attempts, flush=True)
    sys.stdin.read()
"""


def process(folder, keys=KEYS):
    """Start a process that claims what it can and holds it until its input is closed."""
    command = [sys.executable, "-c", TAKE_ALL, str(folder), *keys]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_of_four_processes_one_gets_each_run(tmp_path):
    processes = [process(tmp_path) for _ in range(4)]
    taken = [key for one in processes for key in one.stdout.readline().split()]
    assert sorted(taken) == KEYS
    for one in processes:
        one.communicate("")
        assert one.returncode == 0


def test_the_runs_of_a_killed_process_are_free_at_once_and_those_of_a_living_one_are_not(tmp_path):
    killed, living = process(tmp_path, KEYS[:50]), process(tmp_path, KEYS[50:])
    for one in (killed, living):
        one.stdout.readline()
    killed.kill()  # and not waited for: a zombie is as dead
    while Path(f"/proc/{killed.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    with Claims(tmp_path) as owner:
        owner.take(KEYS)
        assert owner.attempts == dict.fromkeys(KEYS[:50], 2)
    killed.communicate()
    living.communicate("")
    with Claims(tmp_path) as owner:
        owner.take(KEYS)
        assert owner.attempts == dict.fromkeys(KEYS[:50], 3) | dict.fromkeys(KEYS[50:], 2)


@pytest.mark.parametrize(("age", "free"), [(0, False), (GONE_AFTER_S + 60, True)])
def test_an_owner_on_another_machine_lives_while_its_heart_beats(tmp_path, monkeypatch, age, free):
    there = Claims(tmp_path)
    monkeypatch.setattr(claims, "machine", lambda: "elsewhere")
    with there:
        there.take(KEYS[:2])
        monkeypatch.undo()
        os.utime(there.owner, times=(time.time() - age,) * 2)
        with Claims(tmp_path) as here:
            here.take(KEYS[:2])
            assert bool(here.attempts) == free
            assert there.lost(KEYS[0]) == free  # when it wakes up, it must not record the run


def test_the_heart_beats_for_all_claims_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT_S", 0.02)
    with Claims(tmp_path) as owner:
        owner.take(KEYS)
        os.utime(owner.owner, times=(0, 0))
        deadline = time.monotonic() + 30
        while any((tmp_path / key / "attempt.1").stat().st_mtime == 0 for key in KEYS):
            assert time.monotonic() < deadline


def test_a_process_number_given_anew_is_not_taken_for_the_owner(tmp_path):
    with Claims(tmp_path) as owner:
        owner.take(KEYS[:1])
        assert json.loads(owner.owner.read_text())["process"][0] == os.getpid()
        claim = tmp_path / KEYS[0] / "attempt.1"
        now = claim.stat().st_mtime
        assert claims.is_held(claim, now)
        owner.owner.write_text(json.dumps({"machine": claims.machine(), "process": [1, "-1"]}))
        assert not claims.is_held(claim, now)


def test_attempts_are_counted_on_and_on(tmp_path):
    for attempt in range(1, 12):
        with Claims(tmp_path) as owner:
            owner.take(KEYS[:1])
            assert owner.attempts == {KEYS[0]: attempt}
    assert last_attempt(tmp_path / KEYS[0]) == 11
    assert not list((tmp_path / claims.OWNERS).iterdir())
