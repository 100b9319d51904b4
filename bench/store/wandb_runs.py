"""W&B runs: opening them online or offline, and reading their files back."""

import json
import netrc
import os
import socket
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import wandb
from wandb.sdk.mailbox import MailboxClosedError
from wandb.util import get_core_path

from bench.core.errors import require
from bench.core.settings import settings

# Which way a metric is better, by the end of its name: W&B has no goals any more, so the summary's
# aggregation says it.
BETTER = {"error": "min", "loss": "min", "accuracy": "max"}
BESIDE_CONFIG = ("_wandb", "provenance")  # in the configuration of a W&B run, not of its cell
FLUSH_SECONDS = 5  # how much of a curve a killed run may lose
PATIENCE_SECONDS = 30  # how long a W&B server that does not answer is waited for


@settings
class TrackingConfig:
    """Settings of `configs/tracking/`.

    What is not given is what W&B's own environment variables say. `WANDB_TAGS`, `WANDB_NAME` and
    `WANDB_RUN_GROUP` are heeded too.

    Parameters
    ----------
    mode : str
        ``"offline"``, ``"online"`` or ``"disabled"``; by default `WANDB_MODE`, else offline.
    project, entity : str
        Where online runs go; by default `WANDB_PROJECT` and `WANDB_ENTITY`.
    models : bool
        Whether the weights of each run are logged as an artifact of the type ``"model"``.
    """

    mode: Literal["offline", "online", "disabled"] = field(default_factory=lambda: _mode())
    project: str = field(default_factory=lambda: os.environ.get("WANDB_PROJECT") or "rankbench")
    entity: str | None = field(default_factory=lambda: os.environ.get("WANDB_ENTITY") or None)
    models: bool = False


def _mode() -> Any:
    mode = os.environ.get("WANDB_MODE") or "offline"
    expected = "offline, online or disabled"
    require(mode in ("offline", "online", "disabled"), f"WANDB_MODE={mode}", expected)
    return mode


def offline_reason() -> str:
    """Return why runs cannot be online at the moment; empty if they can.

    That needs a key and a server that answers. Without them runs are kept offline, from where
    ``wandb sync`` can upload them later.
    """
    url = urlsplit(wandb.setup().settings.base_url)
    host = url.hostname or ""
    if not (os.environ.get("WANDB_API_KEY") or _netrc_knows(host)):
        return "no W&B key was found (`wandb login` stores one)"
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((host, port), timeout=5).close()
    except OSError as error:
        return f"{host} does not answer ({error})"
    return ""


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
        Mode, project and entity.
    benchmark, job_type, name : str
        The run's group, job type and display name, unless W&B's environment variables name others.
    step : str
        The metric that the others are plotted against, if there are curves.
    values : mapping
        The run's configuration.
    """
    tags = os.environ.get("WANDB_TAGS", "")
    arguments: dict[str, Any] = dict(
        project=config.project,
        entity=config.entity,
        dir=str(folder.absolute()),  # the W&B service may live in another folder
        mode=config.mode,
        reinit="create_new",
        group=os.environ.get("WANDB_RUN_GROUP") or benchmark,
        job_type=job_type,
        name=os.environ.get("WANDB_NAME") or name,
        tags=[benchmark, job_type.split("/")[-1], *filter(None, tags.split(","))],
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
    return run


def log_point(run: wandb.Run, step: str, point: Mapping[str, float]) -> None:
    """Log a point of the curves, which are plotted against `step`."""
    for metric in point if run.step == 0 else ():
        if better := BETTER.get(metric.rpartition("_")[2]):
            run.define_metric(metric, step_metric=step, summary=better)
    run.log(dict(point), step=int(point[step]), commit=True)


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
