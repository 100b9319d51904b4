"""Variants of a data set: the original and its randomized controls [TF, section 5].

A control is a module with a constant ``CHANGES_IMAGES`` and a function
``randomize(split, fraction, seed) -> (inputs, labels)``; the module's name is the variant's. It
lies in this package, in a folder ``controls`` on Python's path (that of ``--config-dir`` is on
it), or is an entry point ``rankbench.controls`` of an installed package.
"""

import pkgutil
import sys
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from bench.core.errors import expecting, require

FOLDER = "controls"


def control(variant: str) -> ModuleType:
    """Return the module of a variant.

    Raises
    ------
    UserError
        If there is none of that name, or if it is not a control.
    """
    known = _modules(tuple(sys.path))
    require(variant in known, f"variant={variant}", f"one of {', '.join(sorted(known))}")
    expected = "a module that can be imported"
    with expecting(f"variant={variant}", expected, (Exception, SystemExit)):
        module = import_module(known[variant])
    complete = hasattr(module, "CHANGES_IMAGES") and callable(getattr(module, "randomize", None))
    expected = "a module with CHANGES_IMAGES and randomize(split, fraction, seed)"
    require(complete, f"variant={variant} from {module.__file__}", expected)
    return module


@cache
def _modules(path: tuple[str, ...]) -> dict[str, str]:
    """Return the dotted names of all controls' modules by variant; ours come first."""
    installed = {point.name: point.value for point in entry_points(group="rankbench.controls")}
    folders = [str(Path(folder) / FOLDER) for folder in path]
    found = {module.name: f"{FOLDER}.{module.name}" for module in pkgutil.iter_modules(folders)}
    ours = {module.name: f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)}
    return installed | found | ours
