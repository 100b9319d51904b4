"""W&B runs: opening them, online or offline, and logging to them."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from bench.core.errors import require
from bench.core.settings import settings
from bench.store.record import Mode

if TYPE_CHECKING:  # imported when it is used, as a finished benchmark should not wait for it
    import wandb

# Which way a metric is better, by the end of its name: W&B has no goals any more, so the summary's
# aggregation says it.
BETTER = {"error": "min", "loss": "min", "accuracy": "max"}
FLUSH_SECONDS = 5  # how much of a curve a killed run may lose
PATIENCE_SECONDS = 30  # how long a W&B server that does not answer is waited for


def _mode() -> Any:
    mode, expected = os.environ.get("WANDB_MODE") or "offline", "offline, online or disabled"
    require(mode in get_args(Mode), f"WANDB_MODE={mode}", expected)
    return mode


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

    mode: Mode = field(default_factory=_mode)
    project: str = field(default_factory=lambda: os.environ.get("WANDB_PROJECT") or "rankbench")
    entity: str | None = field(default_factory=lambda: os.environ.get("WANDB_ENTITY") or None)
    models: bool = False

    def reachable(self) -> "TrackingConfig":
        """Return these settings; if W&B cannot be reached, say why and return offline ones."""
        reason = offline_reason() if self.mode == "online" else ""
        if not reason:
            return self
        message = f"tracking.mode=online is not possible: {reason}; runs are kept offline"
        print(message, file=sys.stderr)
        return replace(self, mode="offline")


def offline_reason() -> str:
    """Return why runs cannot be online at the moment; empty if they can.

    That needs a key and a server that answers. Without them runs are kept offline, from where
    ``wandb sync`` can upload them later.
    """
    import requests
    import wandb
    from requests.utils import get_netrc_auth

    base_url = wandb.setup().settings.base_url
    if not (os.environ.get("WANDB_API_KEY") or get_netrc_auth(base_url)):
        return "no W&B key was found (`wandb login` stores one)"
    try:
        requests.head(base_url, timeout=5)  # unlike a bare socket, it heeds proxies
    except OSError as error:
        return f"{base_url} does not answer ({type(error).__name__})"
    return ""


def open_run(
    folder: Path, tracking: TrackingConfig, step: str | None = None, **about: Any
) -> "wandb.Run":
    """Open one W&B run beside others that are open in this process.

    Parameters
    ----------
    folder : Path
        The run's folder; W&B's files go to ``folder / "wandb"``.
    tracking : TrackingConfig
        Mode, project and entity.
    step : str, optional
        The metric that the others are plotted against, if there are curves.
    **about
        `group`, `job_type`, `name` and `config` as of `wandb.init`; W&B's environment variables
        may name another group and another name.
    """
    import wandb
    from wandb.sdk.mailbox import MailboxClosedError

    tags = [about["group"], about["job_type"].split("/")[-1]]
    variables = {"group": "WANDB_RUN_GROUP", "name": "WANDB_NAME"}
    own = {name: os.environ.get(variable) for name, variable in variables.items()}
    arguments: dict[str, Any] = dict(
        **about | {name: value for name, value in own.items() if value},
        project=tracking.project,
        entity=tracking.entity,
        dir=str(folder.absolute()),  # the W&B service may live in another folder
        mode=tracking.mode,
        reinit="create_new",
        tags=tags + [tag for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag],
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


def log_point(run: "wandb.Run", step: str, point: Mapping[str, float]) -> None:
    """Log a point of the curves, which are plotted against `step`."""
    for metric in point if run.step == 0 else ():
        if better := BETTER.get(metric.rpartition("_")[2]):
            run.define_metric(metric, step_metric=step, summary=better)
    run.log(dict(point), step=int(point[step]), commit=True)
