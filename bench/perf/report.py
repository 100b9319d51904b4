"""Running all measurements and writing them down."""

import resource
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from bench.perf import dynamics, regularizer, tensor_rank
from bench.perf.timing import medians
from bench.tracking import provenance
from data_prep.pathfinder_scenes import SceneConfig, draw_images


def measure(rounds: int) -> pd.DataFrame:
    """Return all measurements as a table of what was measured and its result."""
    rows = tensor_rank.measure(rounds)
    name, regularized, plain = regularizer.regularized_step()
    times = medians({"regularized": regularized, "plain": plain}, rounds)
    pair = f"{times['regularized'] * 1e3:.1f} ms / {times['plain'] * 1e3:.1f} ms"
    rows.append((name, f"{pair} = {times['regularized'] / times['plain']:.1f}"))
    for name, fast, slow in dynamics.comparisons():
        times = medians({"fast": fast, "slow": slow}, rounds)
        pair = f"{times['slow'] * 1e3:.1f} ms / {times['fast'] * 1e3:.2f} ms"
        ratio = times["slow"] / times["fast"]
        rows.append((f"{name}: each observation / full tensor", f"{pair} = {ratio:.0f}"))
    scene, count = SceneConfig(), 100
    drawn = medians({"drawn": lambda: draw_images(scene, range(count), 0, "perf")}, rounds)
    name = f"pathfinder: {scene.length} dashes in {scene.image_size} x {scene.image_size}"
    rows.append((f"{name}, one process", f"{count / drawn['drawn']:.0f} images/s"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    rows.append(("peak memory of this process", f"{peak:.2f} GB"))
    return pd.DataFrame(rows, columns=["measured", "result"])


def write(table: pd.DataFrame, folder: Path, command: Sequence[str]) -> None:
    """Write the table and where it comes from."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["| measured | result |", "| --- | --- |"]
    lines += [f"| {measured} | {result} |" for measured, result in table.to_numpy()]
    git, host = provenance.git_state(), provenance.host()
    facts = {
        "Command": f"`{' '.join(command)}`",
        "Commit": f"`{git['commit']}{' (changed)' * bool(git['dirty'])}`",
        "Versions": ", ".join(f"{k} {v}" for k, v in provenance.versions().items()),
        "Hardware": ", ".join(f"{k} {v}" for k, v in host.items()),
        "Threads": str(torch.get_num_threads()),
        "Made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    origin = ["# Where these measurements come from", ""]
    origin += [f"- {name}: {value}" for name, value in facts.items()]
    (folder / "table.md").write_text("# Speed\n\n" + "\n".join(lines) + "\n")
    (folder / "measurements.csv").write_text(table.to_csv(index=False))
    (folder / "PROVENANCE.md").write_text("\n".join(origin) + "\n")
