"""List runs."""

from pathlib import Path

import click

from bench.commands.common import config_dir, overrides, print_damaged, print_frame
from bench.configuration import compose
from bench.core.errors import UserError
from bench.store.results import Results


@click.command(epilog="Example: rankbench runs --verify")
@click.option("--verify", is_flag=True, help="Compare each record with its W&B file.")
@overrides
@config_dir
def command(verify: bool, overrides: tuple[str, ...]) -> int:
    """List the recorded runs with their status."""
    runs_dir = Path(compose(overrides)["runs_dir"])
    results = Results.from_runs(runs_dir)
    frame = results.frame
    print_damaged(results)
    if frame.empty:
        raise UserError(f"runs_dir={runs_dir} without records", "a folder with recorded runs")
    keys = [name for name in ("benchmark", "data.name", "variant") if name in frame]
    counts = frame.groupby([*keys, "status"]).size().unstack(fill_value=0).reset_index()
    print_frame(counts.astype(str), f"{len(frame)} runs in {runs_dir}")
    problems = []
    if verify:
        from bench.store.wandb_files import verify_records  # only this option needs W&B

        problems = verify_records(runs_dir)
        print("".join(f"{problem}\n" for problem in problems), end="")
        print(f"{len(frame)} runs verified, {len(problems)} problems")
    return 1 if problems or results.damaged else 0
