"""Running all measurements and writing them down."""

import resource
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from bench.perf import tensor_rank
from bench.tracking import records


def measure(rounds: int) -> pd.DataFrame:
    """Return all measurements as a table of what was measured and its result."""
    rows = tensor_rank.measure(rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    rows.append(("peak memory of this process", f"{peak:.2f} GB"))
    return pd.DataFrame(rows, columns=["measured", "result"])


def write(table: pd.DataFrame, folder: Path, command: Sequence[str]) -> None:
    """Write the table and where it comes from."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["| measured | result |", "| --- | --- |"]
    lines += [f"| {measured} | {result} |" for measured, result in table.to_numpy()]
    git, host = records.git_state(), records.host()
    facts = {
        "Command": f"`{' '.join(command)}`",
        "Commit": f"`{git['commit']}{' (changed)' * bool(git['dirty'])}`",
        "Versions": ", ".join(f"{k} {v}" for k, v in records.versions().items()),
        "Hardware": ", ".join(f"{k} {v}" for k, v in host.items()),
        "Threads": str(torch.get_num_threads()),
        "Made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    provenance = ["# Where these measurements come from", ""]
    provenance += [f"- {name}: {value}" for name, value in facts.items()]
    (folder / "table.md").write_text("# Speed\n\n" + "\n".join(lines) + "\n")
    (folder / "measurements.csv").write_text(table.to_csv(index=False))
    (folder / "PROVENANCE.md").write_text("\n".join(provenance) + "\n")
