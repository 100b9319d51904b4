"""W&B runs: opening them online or offline, and reading their files back."""

import json
import netrc
import os
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
from wandb.sdk.mailbox import MailboxClosedError
from wandb.util import get_core_path

from bench.errors import require

MODES = ("offline", "online", "disabled")
# Which way is better; `wandb` has no goals any more, so the summary's aggregation says it.
BETTER = {
    **dict.fromkeys(["train_error", "validation_error", "test_error"], "min"),
    **dict.fromkeys(["running_train_error", "train_loss"], "min"),
    **dict.fromkeys(["validation_loss", "reconstruction_error"], "min"),
    **dict.fromkeys(["train_accuracy", "validation_accuracy", "test_accuracy"], "max"),
}
FLUSH_SECONDS = 5  # how much of a curve a killed run may lose
PATIENCE_SECONDS = 30  # how long a W&B server that does not answer is waited for


@dataclass
class TrackingConfig:
    """Schema of `configs/tracking/`.

    Parameters
    ----------
    mode : str
        ``"offline"`` (the default), ``"online"`` or ``"disabled"``.
    project, entity : str
        Where online runs go.
    """

    mode: str = "offline"
    project: str = "rankbench"
    entity: str | None = None

    def __post_init__(self) -> None:
        require(self.mode in MODES, f"tracking.mode={self.mode}", ", ".join(MODES))


def reachable_mode(mode: str) -> tuple[str, str]:
    """Return the mode that can be used, and why it is not the one asked for, if so.

    Online needs a key and a server that answers; without them runs are kept offline, from where
    ``wandb sync`` can upload them later.
    """
    if mode != "online":
        return mode, ""
    url = urlsplit(wandb.setup().settings.base_url)
    host = url.hostname or ""
    if not (os.environ.get("WANDB_API_KEY") or _netrc_knows(host)):
        return "offline", "no W&B key was found (`wandb login` stores one)"
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return "offline", f"{host} does not answer ({error})"
    return "online", ""


def _netrc_knows(host: str) -> bool:
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def open_run(
    folder: Path,
    config: TrackingConfig,
    *,
    mode: str,
    benchmark: str,
    job_type: str,
    name: str,
    step: str | None,
    values: Mapping[str, Any],
) -> wandb.Run:
    """Open one W&B run beside others that are open in this process.

    Parameters
    ----------
    folder : Path
        The run's folder; W&B's files go to ``folder / "wandb"``.
    config : TrackingConfig
        Project and entity.
    mode : str
        As `reachable_mode` returned it.
    benchmark, job_type, name : str
        The run's group, job type and display name.
    step : str
        The metric that the others are drawn against, if there are curves.
    values : mapping
        The run's configuration.
    """
    arguments: dict[str, Any] = dict(
        project=config.project,
        entity=config.entity,
        dir=str(folder.absolute()),  # the W&B service may live in another folder
        mode=mode,
        reinit="create_new",
        group=benchmark,
        job_type=job_type,
        name=name,
        tags=[benchmark, job_type.split("/")[-1]],
        config=dict(values),
        settings=wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            x_transaction_log_flush_interval=FLUSH_SECONDS,
            init_timeout=PATIENCE_SECONDS,
            finish_timeout=PATIENCE_SECONDS,
            finish_timeout_raises=True,
        ),
    )
    try:
        run = wandb.init(**arguments)
    except (ConnectionError, MailboxClosedError):  # W&B's service was killed: start another
        with suppress(ConnectionError):
            wandb.teardown()
        run = wandb.init(**arguments)
    if step:
        run.define_metric(step, hidden=True)
        run.define_metric("*", step_metric=step)
        for metric, better in BETTER.items():
            run.define_metric(metric, step_metric=step, summary=better)
    return run


def wandb_file(folder: Path) -> Path | None:
    """Return the newest ``.wandb`` file of a run's folder."""
    files = sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    return files[-1] if files else None


def number(value: Any) -> Any:
    """Read a number of W&B's files: whole ones stand there as integers, infinite ones as words."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_number or value in ("NaN", "Infinity", "-Infinity") else value


def read_wandb_file(path: Path) -> dict[str, Any]:
    """Read a ``.wandb`` file through W&B's own inspector.

    Returns
    -------
    dict
        ``config``, ``summary``, ``history`` (a list of rows), ``group``, ``job_type``, ``project``,
        ``run_id`` and ``exit_code`` (None if the run was killed).
    """
    # What `wandb leet inspect` runs, without 0.4 s of Python start-up a file.
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json"]
    command += ["--run-file", str(path.resolve()), str(path.parent)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    result: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "exit_code": None}
    for line in lines:
        entry = json.loads(line)
        kind = entry.get("type")
        content = entry.get(kind, {})
        if kind == "run":
            result["config"].update(content.get("config", {}).get("update", {}))
            names = {"group": "run_group", "job_type": "job_type", "project": "project"}
            result.update({ours: content.get(theirs) for ours, theirs in names.items()})
            result["run_id"] = content.get("run_id")
        elif kind == "summary":
            result["summary"].update(content.get("update", {}))
        elif kind == "history":
            result["history"].append(content.get("item", {}))
        elif kind == "exit":
            result["exit_code"] = content.get("exit_code", 0)
    return result
