"""Variants of a data set: the original and its randomized controls [TF, section 5].

A control is a module of this package. It has a constant ``CHANGES_IMAGES`` and a function
``randomize(split, fraction, seed) -> (inputs, labels)``; the module's name is the variant's.
"""

import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType

from bench.errors import require


@cache
def variants() -> list[str]:
    """Return the names of all variants."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


@cache
def control(variant: str) -> ModuleType:
    """Return the module of a variant."""
    require(variant in variants(), f"variant={variant}", ", ".join(variants()))
    return import_module(f"{__name__}.{variant}")
