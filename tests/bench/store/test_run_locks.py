"""Run locks: one owner per run, whoever else wants it, and a new one when the owner is gone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.store import run_locks
from bench.store.run_locks import GONE_AFTER_S, RunLocks, last_attempt

KEYS = [f"{i:016x}" for i in range(100)]
TAKE_ALL = """
import sys
from pathlib import Path
from bench.store.run_locks import RunLocks
with RunLocks(Path(sys.argv[1])) as owner:
    for key in sys.argv[2:]:
        owner.take([key])
    print(*owner.attempts, flush=True)
    sys.stdin.read()
"""


def process(folder, keys=KEYS):
    """Start a process that locks what it can and holds it until its input is closed."""
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
    with RunLocks(tmp_path) as owner:
        owner.take(KEYS)
        assert owner.attempts == dict.fromkeys(KEYS[:50], 2)
    killed.communicate()
    living.communicate("")
    with RunLocks(tmp_path) as owner:
        owner.take(KEYS)
        assert owner.attempts == dict.fromkeys(KEYS[:50], 3) | dict.fromkeys(KEYS[50:], 2)


@pytest.mark.parametrize(("age", "free"), [(0, False), (GONE_AFTER_S + 60, True)])
def test_an_owner_on_another_machine_lives_while_its_heart_beats(tmp_path, monkeypatch, age, free):
    there = RunLocks(tmp_path)
    monkeypatch.setattr(run_locks, "machine", lambda: "elsewhere")
    with there:
        there.take(KEYS[:2])
        monkeypatch.undo()
        os.utime(there.owner, times=(time.time() - age,) * 2)
        with RunLocks(tmp_path) as here:
            here.take(KEYS[:2])
            assert bool(here.attempts) == free
            assert there.lost(KEYS[0]) == free  # when it wakes up, it must not record the run


def test_the_heart_beats_for_all_locks_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(run_locks, "HEARTBEAT_S", 0.02)
    with RunLocks(tmp_path) as owner:
        owner.take(KEYS)
        os.utime(owner.owner, times=(0, 0))
        deadline = time.monotonic() + 30
        while any((tmp_path / key / "attempt.1").stat().st_mtime == 0 for key in KEYS):
            assert time.monotonic() < deadline


def test_a_process_number_given_anew_is_not_taken_for_the_owner(tmp_path):
    with RunLocks(tmp_path) as owner:
        owner.take(KEYS[:1])
        assert json.loads(owner.owner.read_text())["process"][0] == os.getpid()
        lock = tmp_path / KEYS[0] / "attempt.1"
        now = lock.stat().st_mtime
        assert run_locks.is_held(lock, now)
        owner.owner.write_text(json.dumps({"machine": run_locks.machine(), "process": [1, "-1"]}))
        assert not run_locks.is_held(lock, now)


def test_attempts_are_counted_on_and_on(tmp_path):
    for attempt in range(1, 12):
        with RunLocks(tmp_path) as owner:
            owner.take(KEYS[:1])
            assert owner.attempts == {KEYS[0]: attempt}
    assert last_attempt(tmp_path / KEYS[0]) == 11
    assert not list((tmp_path / run_locks.OWNERS).iterdir())


@pytest.fixture
def hidden(monkeypatch, tmp_path):
    """A /proc that hides the processes of other users, as with hidepid=2."""
    monkeypatch.setattr(run_locks, "PROC", tmp_path / "empty")


@pytest.mark.parametrize(("age", "held"), [(0, True), (GONE_AFTER_S + 60, False)])
def test_where_nobody_can_tell_whether_the_owner_lives_its_heartbeat_counts(
    tmp_path, hidden, age, held
):
    other = subprocess.Popen(["sleep", "60"])
    try:
        with RunLocks(tmp_path) as owner:
            owner.take(KEYS[:1])
            lock = tmp_path / KEYS[0] / "attempt.1"
            process = {"machine": run_locks.machine(), "process": [other.pid, "12345"]}
            owner.owner.write_text(json.dumps(process))
            now = time.time()
            os.utime(owner.owner, times=(now - age,) * 2)
            assert run_locks.is_held(lock, now) == held
    finally:
        other.kill()
        other.wait()


def test_a_process_that_has_certainly_ended_is_gone_even_where_proc_is_hidden(tmp_path, hidden):
    other = subprocess.Popen(["true"])
    other.wait()
    with RunLocks(tmp_path) as owner:
        owner.take(KEYS[:1])
        process = {"machine": run_locks.machine(), "process": [other.pid, None]}
        owner.owner.write_text(json.dumps(process))
        lock = tmp_path / KEYS[0] / "attempt.1"
        assert not run_locks.is_held(lock, lock.stat().st_mtime)


@pytest.mark.parametrize(
    "text", ["[]", "{", "\udcff", '{"machine": 1}', '{"process": [1]}', '{"process": null}']
)
def test_a_lock_that_we_have_not_written_is_held_while_it_is_young(tmp_path, text):
    lock = tmp_path / "attempt.1"
    lock.write_bytes(text.encode(errors="surrogateescape"))
    now = lock.stat().st_mtime
    assert run_locks.is_held(lock, now)
    assert not run_locks.is_held(lock, now + GONE_AFTER_S + 1)


def test_a_lock_from_the_future_is_waited_for_as_long_as_any_other(tmp_path, monkeypatch):
    monkeypatch.setattr(run_locks, "_FROM_THE_FUTURE", {})
    clock = [1000.0]
    monkeypatch.setattr(run_locks.time, "monotonic", lambda: clock[0])
    lock = tmp_path / "attempt.1"
    lock.write_text(json.dumps({"machine": "elsewhere", "process": [1, "1"]}))
    now = lock.stat().st_mtime
    os.utime(lock, times=(now + 1e6,) * 2)
    assert run_locks.is_held(lock, now)
    clock[0] += GONE_AFTER_S - 1
    os.utime(lock, times=(now + 1e6 + 100,) * 2)  # it beats: the clock over there is wrong
    assert run_locks.is_held(lock, now)
    clock[0] += GONE_AFTER_S - 1
    assert run_locks.is_held(lock, now)
    clock[0] += 2
    assert not run_locks.is_held(lock, now)
