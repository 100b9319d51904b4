"""From Hydra's configuration to checked dataclasses, cells and the keys that name them.

Every config group names the dataclass that is its schema in `_target_`; the dataclass stands beside
the code that it configures. So a typo in a YAML file is found like one on the command line.
"""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from bench.errors import UserError, require

PACKAGED = Path(__file__).parent / "configs"
CONFIG_DIR = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1] / "configs"

SCIENTIFIC_GROUPS = ("data", "model", "learner", "trainer")
# What changes where and how a run is computed and kept, but not its numbers.
EXECUTION_KEYS = {"root", "workers", "accelerator", "log_every_n_epochs", "checkpoint_every_s"}


@dataclass(frozen=True)
class Cell:
    """One run of a benchmark's grid.

    Parameters
    ----------
    config : dict
        The resolved scientific configuration: plain values only, no path, device or logger.
    run_key : str
        The configuration's hash, 16 hexadecimal digits.
    """

    config: dict[str, Any]
    run_key: str

    @classmethod
    def of(cls, config: dict[str, Any]) -> "Cell":
        """Return the cell of a scientific configuration."""
        text = json.dumps(config, sort_keys=True, separators=(",", ":"))
        return cls(config, hashlib.sha256(text.encode()).hexdigest()[:16])


def choices(group: str) -> list[str]:
    """Return the names that a config group can be set to."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def benchmarks() -> list[str]:
    """Return the names of all benchmarks; `single` stands for runs that belong to none."""
    return [name for name in choices("benchmark") if name != "single"]


def require_benchmark(name: str) -> None:
    """Raise `UserError` unless there is such a benchmark."""
    require(name in benchmarks(), f"the benchmark {name}", ", ".join(benchmarks()))


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration from `configs/config.yaml` and Hydra overrides.

    Raises
    ------
    UserError
        If an override or a YAML file does not fit; the message is one line.
    """
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = hydra_compose("config", overrides=list(overrides))
            OmegaConf.resolve(config)
            return config
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        given = " ".join(overrides) or "the configuration"
        raise UserError(given, _one_line(error), "see `rankbench run --help`") from error


def launcher_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Return Hydra's launcher and its settings, as in ``hydra/launcher=submitit_slurm``."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
        launcher = OmegaConf.to_container(config.hydra.launcher, resolve=True)
        return launcher  # pyright: ignore[reportReturnType]


def _one_line(error: BaseException) -> str:
    """Return what Hydra or OmegaConf said, innermost cause included, as one line."""
    texts = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        texts.append(str(error))
    lines = [line.strip() for text in texts for line in text.splitlines()]
    noise = ("full_key", "object_type", "reference_type", "Set the environment variable", "Config")
    kept = dict.fromkeys(line for line in lines if line and not line.startswith(noise))
    return ", ".join(kept)


def typed(node: Mapping[str, Any], group: str) -> Any:
    """Turn a config group into an instance of the dataclass that its `_target_` names.

    Equal groups give the same instance, to be read and not written.

    Parameters
    ----------
    node : mapping
        The group's keys and plain values, `_target_` among them.
    group : str
        The group's name, for the message.

    Raises
    ------
    UserError
        If a key is unknown, a value has the wrong type, or the dataclass refuses it.
    """
    return _typed(json.dumps(node, sort_keys=True), group)


@lru_cache(maxsize=4096)
def _typed(node: str, group: str) -> Any:
    values = json.loads(node)
    target = str(values.pop("_target_", ""))
    module, _, name = target.rpartition(".")
    try:
        schema = getattr(import_module(module), name)
    except Exception as error:
        allowed = "the dotted name of a dataclass"
        raise UserError(f"{group}._target_={target!r}", allowed, "see configs/") from error
    require(is_dataclass(schema), f"{group}._target_={target}", "the name of a dataclass")
    known = [field.name for field in fields(schema) if field.init]
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), values))
    except UserError:
        raise
    except ConfigKeyError as error:
        given = f"the key {group}.{error.full_key}"
        raise UserError(given, ", ".join(known), "mend its name") from error
    except OmegaConfBaseException as error:
        given = f"{group}.{error.full_key}={values.get(str(error.full_key))!r}"
        raise UserError(given, _one_line(error)) from error


def scientific(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's numbers depend on, complete with the schemas' defaults."""
    seed = config["seed"]
    whole = isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0
    require(whole, f"seed={seed}", "an integer of at least 0")
    result: dict[str, Any] = {"variant": str(config["variant"]), "seed": seed}
    for group in SCIENTIFIC_GROUPS:
        values = asdict(typed(config[group], group))
        kept = {name: value for name, value in values.items() if name not in EXECUTION_KEYS}
        result[group] = {"_target_": config[group]["_target_"], **kept}
    return result


def plain(config: DictConfig) -> dict[str, Any]:
    """Return a resolved configuration as nested plain values."""
    return OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportReturnType]


def results_folder(config: Mapping[str, Any]) -> Path:
    """Return the folder of tables and figures: `results_dir`, or the runs' own."""
    return Path(config["results_dir"] or config["runs_dir"])


def with_values(config: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a nested configuration with dotted keys set to new values."""
    result = copy.deepcopy(config)
    for key, value in values.items():
        get_value(result, key)
        *parents, name = key.split(".")
        node = result
        for parent in parents:
            node = node[parent]
        node[name] = value
    return result


def get_value(config: Mapping[str, Any], key: str) -> Any:
    """Return the value at a dotted key of a nested configuration."""
    value: Any = config
    for name in key.split("."):
        known = sorted(value) if isinstance(value, Mapping) else []
        require(name in known, f"the key {key}", f"{', '.join(known)} in place of {name!r}")
        value = value[name]
    return value
