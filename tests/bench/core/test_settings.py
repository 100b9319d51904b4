"""Settings: what is accepted, what is refused in one line, and what a run key is made of."""

from typing import ClassVar, Literal

import pytest
import torch

from bench.core.errors import UserError, require
from bench.core.settings import (
    Count,
    Factory,
    Settings,
    as_plain,
    identity,
    load,
    settings,
    validate,
)


@settings
class Inner:
    size: int = 1


@settings
class Outer(Settings):
    name: ClassVar[str] = "outer"

    rank: Count = 5
    kind: Literal["a", "b"] = "a"
    limit: float | None = None
    sizes: tuple[int, ...] = (1,)
    inner: Inner = Inner()

    def __post_init__(self):
        require(self.rank != 7, f"model.rank={self.rank}", "not seven")


@settings
class Widened(Settings):
    """The same settings after a field was added and the class was moved."""

    name: ClassVar[str] = "outer"

    added: int = 0
    rank: Count = 5
    kind: Literal["a", "b"] = "a"
    limit: float | None = None
    sizes: tuple[int, ...] = (1,)
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rnak": 3}, "model.rnak: expected one of rank, kind.*did you mean rank"),
        ({"rank": "three"}, "model.rank='three': expected a valid integer"),
        ({"rank": 1.5}, "model.rank=1.5"),
        ({"rank": True}, "model.rank=True"),
        ({"rank": 0}, "model.rank=0: expected a number greater than or equal to 1"),
        ({"rank": 7}, "model.rank=7: expected not seven"),
        ({"kind": "c"}, "model.kind='c': expected 'a' or 'b'"),
        ({"sizes": [1, "2"]}, "model.sizes.1='2'"),
        ({"inner": {"width": 1}}, "model.inner.width: expected one of size"),
    ],
)
def test_what_does_not_fit_is_one_line(values, message):
    with pytest.raises(UserError, match=message) as caught:
        validate(Outer, values, "model")
    assert "\n" not in str(caught.value)


def test_values_of_yaml_become_frozen_settings():
    outer = validate(Outer, {"rank": 2, "limit": 1, "sizes": [3, 4], "inner": {"size": 9}}, "model")
    assert outer == Outer(rank=2, limit=1.0, sizes=(3, 4), inner=Inner(size=9))
    assert hash(outer) == hash(Outer(rank=2, limit=1.0, sizes=(3, 4), inner=Inner(size=9)))
    with pytest.raises(AttributeError):
        outer.rank = 3


def test_identity_is_what_differs_from_the_defaults():
    assert identity(Outer()) == {"name": "outer"}
    given = {"rank": 2, "inner": {"size": 3}, "sizes": [1, 2]}
    assert identity(validate(Outer, given, "model")) == {"name": "outer", **given}
    assert identity(validate(Widened, given, "model")) == identity(validate(Outer, given, "model"))
    assert as_plain(Outer())["inner"] == {"size": 1}


@pytest.mark.parametrize(
    "target", ["", "os.system", "subprocess.Popen", "bench.models.cp.Nothing", "bench.models.cp"]
)
def test_a_target_that_is_no_settings_class_of_ours_is_refused(target):
    with pytest.raises(UserError, match="_target_"):
        load({"_target_": target}, "model")


def test_a_factory_makes_an_optimizer():
    factory = load({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1}, "optimizer")
    assert isinstance(factory, Factory)
    optimizer = factory([torch.nn.Parameter(torch.ones(1))], momentum=0.5)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.1, 0.5)


def test_a_factory_s_identity_leaves_out_the_library_s_defaults():
    node = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.1, "momentum": 0}
    assert identity(load(node, "optimizer")) == {"name": "SGD", "lr": 0.1}


def test_an_argument_that_a_factory_does_not_know_is_refused():
    node = {"_target_": "torch.optim.SGD", "_partial_": True, "momentun": 0.9}
    with pytest.raises(UserError, match=r"optimizer\.momentun: expected.*did you mean momentum"):
        load(node, "optimizer")
