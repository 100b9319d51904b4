"""Trained models, rebuilt from their records."""

import re
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.configuration import choices, raw
from bench.core.cell import Cell
from bench.core.errors import UserError, require
from bench.core.settings import resolve, validate
from bench.store.record import RECORD_FILE, Record, read_record
from bench.store.tracker import WEIGHTS_FILE
from data_prep.images import ImageData, quantize


class TrainedModel(NamedTuple):
    """A trained model.

    Parameters
    ----------
    module : Module
        The model with its weights, in evaluation mode.
    transform : callable
        Makes the module's inputs, shape (samples, pixels), uint8, of images as they are stored,
        shape (samples, ...), integers. Of data without such images it is the identity.
    record : Record
        The run that trained it.
    """

    module: nn.Module
    transform: Callable[[Tensor], Tensor]
    record: Record


def load_model(run_key: str, runs_dir: str | Path = "runs", **data: Any) -> TrainedModel:
    """Load what a run has trained.

    Parameters
    ----------
    run_key : str
        The run's key, which its folder is named by.
    runs_dir : path
        The folder of all runs.
    **data
        Where data of your own are: ``file="mine.npz"`` or ``path="photos"``; records do not say so.

    Raises
    ------
    UserError
        If there is no such run, or if it has no weights or unknown settings.
    """
    given = f"the run {run_key} in {runs_dir}"
    require(re.fullmatch("[0-9a-f]{16}", run_key) is not None, given, "16 hexadecimal digits")
    weights = Path(runs_dir).glob(f"*/{run_key}/{WEIGHTS_FILE}")
    found = [path for path in weights if path.with_name(RECORD_FILE).exists()]  # else it was killed
    require(len(found) > 0, f"{given} without {WEIGHTS_FILE}", "a run that has ended with weights")
    record = read_record(found[0].with_name(RECORD_FILE))
    cell = cell_of(record.config, **data)
    module = cell.learner.module(cell)
    module.load_state_dict(torch.load(found[0], map_location="cpu", weights_only=True))
    transform: Callable[[Tensor], Tensor] = nn.Identity()
    if isinstance(cell.data, ImageData):
        transform = partial(quantize, brightest=cell.data.brightest, levels=cell.data.levels)
    return TrainedModel(module.eval(), transform, record)


def cell_of(config: dict[str, Any], **data: Any) -> Cell:
    """Return the cell of a record's configuration, without optimizer, regularizer and trainer."""
    groups = {name: config[name] | (data if name == "data" else {}) for name in GROUPS}
    loaded = {name: _settings(name, values) for name, values in groups.items()}
    return Cell(config["variant"], config["seed"], **loaded)


GROUPS = ("data", "model", "learner")


def _settings(group: str, values: dict[str, Any]) -> Any:
    """Return the settings of a group that have the recorded name and fields."""
    for choice in choices(group):
        target = raw(f"{group}/{choice}").get("_target_")
        if target is None:  # the file names another one, which has it
            continue
        schema = resolve(target)
        known = {field.name for field in fields(schema)}
        elsewhere = {field.name for field in fields(schema) if not field.compare}  # in no record
        # Data of the user's own are named after their file: only a fixed name must agree.
        name = None if "name" in known else getattr(schema, "name", None)
        own = values if "name" in known else {n: v for n, v in values.items() if n != "name"}
        if elsewhere <= set(own) <= known and (not isinstance(name, str) or name == values["name"]):
            return validate(schema, own, group)
    given = f"the settings {values.get('name')} of {group}"
    raise UserError(given, "those of a file in the configurations", "pass --config-dir or file=...")
