"""What all tests share: quiet W&B, bounded property tests, a place for runs."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("WANDB_SILENT", "true")

settings.register_profile("suite", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("suite")


def pytest_collection_modifyitems(items):
    """Leave out the tests of real data where there is none; CI sets RANKBENCH_DATA."""
    if "RANKBENCH_DATA" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("real_data"):
            item.add_marker(pytest.mark.skip(reason="RANKBENCH_DATA is not set"))


@pytest.fixture
def rankbench(capsys):
    """Run the command line in this process; return exit code, stdout and stderr."""
    from bench.cli import main

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call
