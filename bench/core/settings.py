"""Settings of config groups: frozen dataclasses, validated once by pydantic.

Every YAML file of a group names in `_target_` the class of its settings, which stands beside the
code that it configures. A default stands in that class alone; YAML files hold differences.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from bench.core.errors import UserError, expecting, require

Count = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
AtLeastTwo = Annotated[int, Field(ge=2)]

T = TypeVar("T")
STRICT = ConfigDict(extra="forbid", strict=True)
# What settings may name in `_target_`; `bench.configuration` adds the user's own modules.
TRUSTED = ["bench", "data_prep", "torch.optim", "pytorch_lightning"]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose values pydantic validates; unknown keys are refused."""
    return dataclass(frozen=True, kw_only=True, config=STRICT)(cls)  # pyright: ignore


class Settings:
    """What one config group says.

    Attributes
    ----------
    name : str
        The name under which records know these settings. Run keys are made of it, never of the
        class's own name or module, so that a class can move.
    later : frozenset of str
        Fields that are younger than the first records: recorded only where they are not at their
        default, so that old and new records read alike.
    """

    name: ClassVar[str]
    later: ClassVar[frozenset[str]] = frozenset()


class Factory:
    """A class of another library with some of its arguments, as Hydra's `_partial_` makes it.

    Parameters
    ----------
    target : str
        The dotted name of the class.
    arguments : mapping
        Arguments by name, plain values.
    """

    def __init__(self, target: str, arguments: Mapping[str, Any]) -> None:
        self.make: Callable[..., Any] = resolve(target)
        self.name = target.rpartition(".")[2]
        self.arguments = dict(arguments)
        parameters = inspect.signature(self.make).parameters.values()
        self.defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

    def __call__(self, *positional: Any, **named: Any) -> Any:
        """Make an instance; arguments that are named here take precedence."""
        return self.make(*positional, **{**self.arguments, **named})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Factory) and as_plain(self) == as_plain(other)

    def __hash__(self) -> int:
        return hash(json.dumps(as_plain(self), sort_keys=True, default=str))


def load(node: Mapping[str, Any], group: str) -> Any:
    """Return the settings that a resolved node of the configuration stands for.

    Parameters
    ----------
    node : mapping
        Plain values, `_target_` among them; with `_partial_: true` a `Factory`.
    group : str
        The group's name, for messages.

    Raises
    ------
    UserError
        If a key is unknown, or a value is of the wrong type or out of bounds.
    """
    values = dict(node)
    target = str(values.pop("_target_", ""))
    if values.pop("_partial_", False):
        factory = Factory(target, values)
        known = [*inspect.signature(factory.make).parameters][1:]  # without what is optimized
        for name in values:
            require(name in known, f"{group}.{name}", *alternatives(name, known))
        return factory
    schema = resolve(target, f"{group}._target_")
    given, expected = f"{group}._target_={target}", "the dotted name of a settings class"
    require(isinstance(schema, type) and is_dataclass(schema), given, expected)
    return validate(schema, values, group)


def validate(schema: Any, values: Any, group: str) -> Any:
    """Return a `schema` made of plain values; raise a one-line `UserError` if they do not fit."""
    try:
        # JSON is the form in which pydantic's strict mode takes lists for tuples.
        return adapter(schema).validate_json(json.dumps(values))
    except ValidationError as error:
        raise _explained(error, schema, group) from None
    except TypeError as error:
        raise UserError(group, f"plain values ({error})") from error


def as_plain(value: Any, *, defaults: bool = True) -> Any:
    """Return settings as nested plain values: what records hold.

    A field with ``compare=False`` says where something lies, not what it is, and is left out.
    Without `defaults` so is whatever is at its default; with them only fields in `later` are.
    """
    if isinstance(value, Factory):
        given, usual = as_plain(value.arguments), {} if defaults else as_plain(value.defaults)
        own = {n: v for n, v in given.items() if n not in usual or usual[n] != v}
        return {"name": value.name, **own}
    if is_dataclass(value) and not isinstance(value, type):
        result = {"name": value.name} if isinstance(value, Settings) else {}
        later = getattr(value, "later", frozenset())
        for field in (field for field in fields(value) if field.compare):
            factory, given = field.default_factory, getattr(value, field.name)
            differs = given != (field.default if factory is MISSING else factory())
            if differs or (defaults and field.name not in later):
                result[field.name] = as_plain(given, defaults=defaults)
        return result
    if isinstance(value, Mapping):
        return {name: as_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    return value


def identity(value: Any) -> Any:
    """Return settings as nested plain values without those at their default; what is hashed.

    So a new field with a default changes no key. A released default must therefore never change.
    """
    return as_plain(value, defaults=False)


@cache
def adapter(schema: type[Any]) -> TypeAdapter[Any]:
    """Return what reads a settings class from JSON, and writes it."""
    return TypeAdapter(schema)


def resolve(target: str, setting: str = "_target_") -> Any:
    """Return what a dotted name stands for, of a module that settings may name; see `TRUSTED`."""
    given = f"{setting}={target!r}"
    expected = f"a name in {', '.join(TRUSTED)}, or in a folder given by --config-dir"
    require(any(target.startswith(f"{module}.") for module in TRUSTED), given, expected)
    module, _, name = target.rpartition(".")
    # A module of the user's own may raise anything.
    with expecting(given, "a name that exists", (Exception, SystemExit)):
        return getattr(import_module(module), name)


def alternatives(name: str, known: Sequence[str]) -> tuple[str, str]:
    """Return the names to choose from, and the one that was probably meant."""
    close = get_close_matches(name, known, 1)
    return f"one of {', '.join(known)}", f"did you mean {close[0]}?" if close else ""


def _explained(error: ValidationError, schema: type, group: str) -> UserError:
    """Return pydantic's first complaint as one line."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return cause
    path = [str(part) for part in first["loc"]]
    given = ".".join([group, *path])
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return UserError(given, *alternatives(path[-1], _known_at(schema, path[:-1])))
    if first["type"] in ("missing", "missing_argument"):
        return UserError(given, "a value", f"set {given}")
    message = first["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input should be ")
    message = f"a number {message}" if message.startswith(("greater", "less")) else message
    return UserError(f"{given}={first['input']!r}", message)


def _known_at(schema: Any, path: list[str]) -> list[str]:
    """Return the field names of the settings at a path below a schema."""
    for name in path:
        if not name.isdigit():  # else an item of a tuple, whose type has been found
            schema = next((f.type for f in fields(schema) if f.name == name), None)
        schema = next((kind for kind in (schema, *get_args(schema)) if is_dataclass(kind)), None)
        if schema is None:
            return []
    return [field.name for field in fields(schema) if field.init]
