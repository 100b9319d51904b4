"""What checkpoints and locks cost in `make bench`: their share of its time.

    python tests/stress/overhead.py
    python tests/stress/overhead.py --max-epochs 100

With fewer epochs than the 1000 of `make bench` the checkpoints come as much sooner, so that there
are as many of them.
"""

import argparse
import sys
import tempfile
import time
from contextlib import suppress

from bench.cli import main
from bench.execute import work
from bench.execute.checkpoints import Checkpoints
from bench.store.run_locks import RunLocks

ALLOWED = 0.03
MEASURED = [
    (Checkpoints, ("after_interval", "existing", "discard")),
    (RunLocks, ("__enter__", "take", "lost", "__exit__")),
    (work, ("last_attempt", "checkpointed")),
]


def measure(owner, name, spent):
    """Let a function add the seconds that it takes to `spent`."""
    function = getattr(owner, name)

    def timed(*arguments):
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start

    setattr(owner, name, timed)


def share(max_epochs):
    """Run the benchmark; print what was spent on what and return the share of the whole."""
    spent = {}
    for owner, names in MEASURED:
        for name in names:
            measure(owner, name, spent)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["model=cp", f"trainer.max_epochs={max_epochs}", f"runs_dir={folder}"]
        overrides += [f"trainer.checkpoint_every_s={60 * max_epochs / 1000}"]
        with suppress(SystemExit):
            main(["bench", "tensor_rank", *overrides])
    total = time.perf_counter() - start
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"{name:20} {seconds:8.3f} s")
    result = sum(spent.values()) / total
    print(f"checkpoints and locks: {result:.2%} of {total:.1f} s; allowed {ALLOWED:.0%}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-epochs", type=int, default=1000)
    sys.exit(share(parser.parse_args().max_epochs) > ALLOWED)
