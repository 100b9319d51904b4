"""Sixteen numbers side by side, as a type that compiled loops can hold in vector registers.

A vector of lanes is added, multiplied and divided lane by lane in IEEE arithmetic, in the order in
which the code says so: no sums across lanes, no fused multiply-adds, no approximate reciprocals.
So a lane's result does not depend on what the other lanes hold, on its place among them, or on how
wide the processor's registers are. Automatic vectorization promises the speed of none of this.
"""

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

LANES = 16  # float32 numbers in a cache line, so that a row of a table is read whole


class Lanes(types.Type):
    """Numba's type of a vector of `LANES` numbers.

    Parameters
    ----------
    scalar : numba type
        ``float32`` or ``float64``.
    """

    def __init__(self, scalar: types.Float) -> None:
        self.scalar = scalar
        super().__init__(name=f"Lanes({scalar})")


LLVM_SCALARS = {numba.float32: ir.FloatType(), numba.float64: ir.DoubleType()}
VECTORS = {scalar: Lanes(scalar) for scalar in LLVM_SCALARS}


def _vector(kind: Lanes) -> ir.VectorType:
    return ir.VectorType(LLVM_SCALARS[kind.scalar], LANES)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, _vector(kind))


# ---- rows of arrays -----------------------------------------------------------------------------


def _row(context: Any, builder: Any, kinds: Any, arguments: Any) -> Any:
    """Return the address of a row of a contiguous array, as a pointer to a vector."""
    array = context.make_array(kinds[0])(context, builder, arguments[0])
    row = context.cast(builder, arguments[1], kinds[1], types.intp)
    first = builder.mul(row, ir.Constant(row.type, LANES))
    pointer = _vector(VECTORS[kinds[0].dtype]).as_pointer()
    return builder.bitcast(builder.gep(array.data, [first]), pointer)


@intrinsic
def load(typing_context: Any, array: Any, row: Any) -> Any:
    """Return lanes `LANES * row` and following of a contiguous array, whatever its shape."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_row(context, builder, signature.args, arguments), align=4)

    return VECTORS[array.dtype](array, row), generate


@intrinsic
def store(typing_context: Any, array: Any, row: Any, value: Any) -> Any:
    """Write lanes `LANES * row` and following of a contiguous array, whatever its shape."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _row(context, builder, signature.args, arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, row, value), generate


@intrinsic
def transpose(typing_context: Any, source: Any, row: Any, target: Any, place: Any) -> Any:
    """Write `LANES` rows of one array, from `row` on, as columns of another, from `place` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def at(first: int, i: int) -> Any:
            own = slice(first, first + 2)
            pointer = _row(context, builder, signature.args[own], arguments[own])
            return builder.gep(pointer, [ir.Constant(ir.IntType(32), i)])

        rows = [builder.load(at(0, i), align=4) for i in range(LANES)]
        half = LANES // 2
        for _ in range(half.bit_length()):  # each time the first half is shuffled into the second
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [_interleaved(builder, *pair, first) for pair in pairs for first in (0, half)]
        for i, one in enumerate(rows):
            builder.store(one, at(2, i), align=4)
        return context.get_dummy_value()

    return types.void(source, row, target, place), generate


def _interleaved(builder: Any, a: Any, b: Any, first: int) -> Any:
    """Return a[first], b[first], a[first + 1], ... of two vectors, half of each."""
    places = [first + i // 2 + LANES * (i % 2) for i in range(LANES)]
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), LANES), places))


# ---- functions of vectors -----------------------------------------------------------------------


def _function(result: Callable[[Any], Any] = lambda kind: kind) -> Callable[..., Any]:
    """Make a function for compiled code out of one that generates its instructions.

    What is decorated gets LLVM's builder, the type of the result and the values of the arguments.

    Parameters
    ----------
    result : callable
        Maps the type of the first argument to that of the result; by default it is the same.
    """

    def decorate(generate: Callable[..., Any]) -> Any:
        def define(typing_context: Any, *kinds: Any) -> Any:
            kind = result(kinds[0])
            return kind(*kinds), lambda _, builder, __, values: generate(
                builder, _vector(kind), *values
            )

        # Numba counts the parameters: as many as the decorated one's without the builder.
        own = list(inspect.signature(generate).parameters.values())[1:]
        define.__signature__ = inspect.Signature(own)  # pyright: ignore[reportFunctionMemberAccess]
        return intrinsic(functools.update_wrapper(define, generate))

    return decorate


def _call(builder: Any, vector: Any, name: str, *values: Any) -> Any:
    """Call one of LLVM's functions of vectors."""
    kind = ir.FunctionType(vector, [vector] * len(values))
    full = f"llvm.{name}.v{LANES}f{32 if isinstance(vector.element, ir.FloatType) else 64}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), values)


@_function(lambda number: VECTORS[number])
def fill(builder: Any, vector: Any, number: Any) -> Any:
    """Return lanes that all hold one float32 or float64 number."""
    index = ir.IntType(32)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, index(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(index, LANES), None))


@_function(lambda _: VECTORS[numba.float64])
def widen(builder: Any, vector: Any, a: Any) -> Any:
    """Return float32 lanes as float64, exactly."""
    return builder.fpext(a, vector)


@_function(lambda _: VECTORS[numba.float32])
def narrow(builder: Any, vector: Any, a: Any) -> Any:
    """Return float64 lanes rounded to float32."""
    return builder.fptrunc(a, vector)


@_function()
def absolute(builder: Any, vector: Any, a: Any) -> Any:
    """Return the magnitudes of lanes."""
    return _call(builder, vector, "fabs", a)


@_function()
def square_root(builder: Any, vector: Any, a: Any) -> Any:
    """Return the square roots of lanes, correctly rounded."""
    return _call(builder, vector, "sqrt", a)


@_function()
def signed(builder: Any, vector: Any, magnitude: Any, sign: Any) -> Any:
    """Return the magnitudes of one vector with the signs of another."""
    return _call(builder, vector, "copysign", magnitude, sign)


@_function()
def larger(builder: Any, vector: Any, a: Any, b: Any) -> Any:
    """Return the larger of two vectors, lane by lane; the first where it is not a number."""
    return builder.select(builder.fcmp_unordered(">", a, b), a, b)


@_function()
def chosen(builder: Any, vector: Any, mask: Any, a: Any, b: Any) -> Any:
    """Return the first of two vectors in lanes where `mask` is above 0, the second elsewhere."""
    return builder.select(builder.fcmp_ordered(">", mask, ir.Constant(vector, None)), a, b)


def _arithmetic(operation: Any, name: str) -> None:
    @_function()
    def apply(builder: Any, vector: Any, a: Any, b: Any) -> Any:
        return getattr(builder, name)(a, b)

    @overload(operation)
    def _operate(a, b) -> Any:  # noqa: ANN001 - Numba wants the parameters of what it returns
        if isinstance(a, Lanes) and a == b:
            return lambda a, b: apply(a, b)
        return None


for _name in ("add", "sub", "mul", "truediv"):
    _arithmetic(getattr(operator, _name), f"f{_name.removeprefix('true')}")
