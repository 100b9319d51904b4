"""Composing the configuration with Hydra, from the suite's own folder and from the user's."""

import re
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bench.core import settings
from bench.core.cell import SCIENCE
from bench.core.errors import UserError, require

PACKAGED = Path(__file__).parent / "configs"
CONFIG_DIR = PACKAGED if PACKAGED.is_dir() else Path(__file__).parents[1] / "configs"
# Where configurations are looked for: ours, then those of --config-dir and of entry points.
FOLDERS = [CONFIG_DIR]

# Groups whose keys the settings classes know: there an override may name a key that no YAML holds.
TYPED_GROUPS = (*SCIENCE, "execution", "tracking", "sweep")
# Names under which settings of `execution` are known to users of Hydra and Lightning.
ALIASES = {
    "data.root": "execution.root",
    "data.workers": "execution.workers",
    "trainer.log_every_n_epochs": "execution.log_every_n_epochs",
    "trainer.checkpoint_every_s": "execution.checkpoint_every_s",
}


def add_folder(folder: Path) -> None:
    """Find configurations, and the modules that they name, in one more folder.

    Raises
    ------
    UserError
        If there is no such folder.
    """
    require(folder.is_dir(), f"--config-dir {folder}", "an existing folder")
    folder = folder.resolve()
    if folder in FOLDERS:
        return
    for path in sorted(CONFIG_DIR.rglob("*.yaml")):
        own = folder / path.relative_to(CONFIG_DIR)
        hint = "rankbench has one of this name, which would be used instead"
        require(not own.is_file(), f"--config-dir with {own}", "another name", hint)
    FOLDERS.append(folder)
    sys.path.insert(1, str(folder))
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py" or (path.is_dir() and path.name.isidentifier()):
            settings.TRUSTED.append(path.stem)


def add_installed() -> None:
    """Find the configurations of installed packages: the entry points ``rankbench.configs``."""
    for point in entry_points(group="rankbench.configs"):
        add_folder(Path(str(files(point.load()))))


def choices(group: str) -> list[str]:
    """Return the names that a config group can be set to."""
    paths = [path for folder in FOLDERS for path in (folder / group).glob("*.yaml")]
    return sorted({path.stem for path in paths})


def raw(choice: str) -> dict[str, Any]:
    """Return a YAML file of a config group, such as ``benchmark/theory``, as it is written."""
    paths = [folder / f"{choice}.yaml" for folder in FOLDERS]
    node = OmegaConf.load(next(path for path in paths if path.is_file()))
    return OmegaConf.to_container(node, resolve=False)  # pyright: ignore[reportReturnType]


def benchmarks() -> list[str]:
    """Return the names of all benchmarks; `single` stands for runs that belong to none."""
    return [name for name in choices("benchmark") if name != "single"]


def require_benchmark(name: str) -> None:
    """Raise `UserError` unless there is such a benchmark."""
    require(name in benchmarks(), f"the benchmark {name}", f"one of {', '.join(benchmarks())}")


def compose(overrides: Sequence[str], *, hydra: bool = False) -> dict[str, Any]:
    """Compose the configuration from `configs/config.yaml` and Hydra overrides.

    Returns
    -------
    dict
        Nested plain values; with `hydra` those of Hydra's launcher alone.

    Raises
    ------
    UserError
        If an override or a YAML file does not fit; the message is one line.
    """
    search = ",".join(f"file://{folder}" for folder in FOLDERS[1:])
    extra = [f"hydra.searchpath=[{search}]"] if search else []
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            lines = [*extra, *map(_spelled_out, overrides)]
            config = hydra_compose("config", overrides=lines, return_hydra_config=hydra)
            node = config.hydra.launcher if hydra else config
            written: Any = OmegaConf.to_container(node)
            described = None if hydra else written.get("benchmark")
            axes = described.get("axes") if isinstance(described, dict) else None
            _require_settled(written, [*axes] if isinstance(axes, dict) else [])
            OmegaConf.resolve(node)
            composed: Any = OmegaConf.to_container(node)
    except UserError:  # a ValueError that says it all
        raise
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
        given = " ".join(overrides) or "the configuration"
        raise UserError(given, "what the configuration knows", _one_line(error)) from error
    for name in () if hydra else ("runs_dir", "results_dir"):
        path = composed.get(name)
        fits = (isinstance(path, str) and path != "") or (path is None and name == "results_dir")
        require(fits, f"{name}={path}", "the path of a folder")
    return composed


def _require_settled(written: Any, axes: Iterable[str], key: str = "") -> None:
    """Raise `UserError` for a value that refers to an axis: it is settled before any axis is."""
    if isinstance(written, dict):
        for name, value in written.items():
            _require_settled(value, axes, f"{key}.{name}" if key else str(name))
    elif isinstance(written, str):
        for axis in axes:
            refers = re.search(rf"\$\{{(.*[^\w.])?{re.escape(axis)}\W", written)
            expected = f"no reference to {axis}, which is an axis: all of its values would get one"
            require(refers is None, f"{key}={written}", expected, f"make a case for each {axis}")


def launcher(overrides: Sequence[str]) -> dict[str, Any]:
    """Return Hydra's launcher and its settings, if ``hydra/launcher=...`` or the like is given."""
    chosen = [line for line in overrides if line.startswith("hydra")]
    return compose(chosen, hydra=True) if chosen else {}


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides in Hydra's syntax, with the aliases of `execution` replaced.

    A key of a typed group need not stand in a YAML file: its settings class knows it, and refuses
    it if it does not. Any other key must exist.
    """
    try:
        parsed = OverridesParser.create().parse_overrides([_spelled_out(o) for o in overrides])
    except HydraException as error:
        message = str(error).splitlines()[0]
        given = " ".join(overrides)
        raise UserError(given, "Hydra's override syntax, key=value", message) from error
    for override in parsed:
        group, dot, _ = override.key_or_group.partition(".")
        stray = override.is_add() and not dot
        stray |= override.is_delete() and not (dot and group in TYPED_GROUPS)
        given = str(override.input_line)
        require(not stray, given, "a key that exists, set without + or ~")
        used = re.match(r"hydra(?![./]launcher)", override.key_or_group) is None
        require(used, given, "hydra.launcher.X=..., as no other setting of Hydra's has an effect")
        require(override.value() != {}, given, "a value, as {} changes nothing")
        swept = override.value()
        require(
            not isinstance(swept, Glob | IntervalSweep), given, "values, as in 1,2 or range(1,3)"
        )
    return parsed


def _spelled_out(override: str) -> str:
    """Return an override with its alias replaced, and free to add a key to a typed group."""
    key, equals, value = override.partition("=")
    bare = ALIASES.get(key.lstrip("+"), key.lstrip("+"))
    group, dot, _ = bare.partition(".")
    return f"++{bare}={value}" if equals and dot and group in TYPED_GROUPS else override


def _one_line(error: BaseException) -> str:
    """Return what Hydra or OmegaConf said, innermost cause included, as one line."""
    texts = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        texts.append(str(error))
    lines = [line.strip() for text in texts for line in text.splitlines()]
    noise = ("full_key", "object_type", "reference_type", "Set the environment variable", "Config")
    noise += ("provider=", "Config search path", "To append to your")
    kept = dict.fromkeys(line for line in lines if line and not line.startswith(noise))
    return ", ".join(kept or lines)
