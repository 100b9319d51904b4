"""Running all measurements and writing them down."""

from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from bench.core.settings import as_plain
from bench.perf import tensor_rank, yardsticks
from bench.perf.timing import medians, ratio
from bench.report import tables
from bench.store import provenance


def measure(rounds: int) -> pd.DataFrame:
    """Return all measurements as a table of what was measured and its result."""
    rows = tensor_rank.measure(rounds)
    for name, slow, fast in yardsticks.comparisons():
        times = medians({"slow": slow, "fast": fast}, rounds)
        rows.append((name, ratio(times["slow"], times["fast"])))
    return pd.DataFrame(rows, columns=["measured", "result"])


def write(table: pd.DataFrame, folder: Path, command: str) -> None:
    """Write the table and where it comes from."""
    folder.mkdir(parents=True, exist_ok=True)
    usage = provenance.Usage()
    usage.update()
    git, host = provenance.git_state(), provenance.host(usage)
    facts = {
        "Command": f"`{command}`",
        "Commit": f"`{git.commit}{' (changed)' * bool(git.dirty)}`",
        "Versions": ", ".join(f"{k} {v}" for k, v in provenance.versions().items()),
        "Hardware": ", ".join(f"{k} {v}" for k, v in as_plain(host).items()),
        "Made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    origin = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    (folder / "table.md").write_text(f"# Speed\n\n{tables.as_markdown(table)}\n")
    (folder / "measurements.csv").write_text(table.to_csv(index=False))
    (folder / "PROVENANCE.md").write_text(f"# Where these measurements come from\n\n{origin}\n")
