"""Sixteen numbers side by side, as a type that compiled loops can hold in vector registers.

A vector of lanes is added, multiplied and divided lane by lane in IEEE arithmetic, in the order in
which the code says so: no sums across lanes, no fused multiply-adds, no approximate reciprocals.
So a lane's result does not depend on what the other lanes hold, on its place among them, or on how
wide the processor's registers are. Automatic vectorization promises the speed of none of this.
"""

import operator
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


LLVM_SCALARS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}
VECTORS = {scalar.name: Lanes(scalar) for scalar in (numba.float32, numba.float64)}


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Lanes) -> None:
        super().__init__(manager, kind, _vector(kind))


def _vector(kind: Lanes) -> ir.VectorType:
    return ir.VectorType(LLVM_SCALARS[kind.scalar.name], LANES)


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Return the address of a row of a contiguous array, as a pointer to a vector."""
    kind = signature.args[0]
    array = context.make_array(kind)(context, builder, arguments[0])
    row = context.cast(builder, arguments[1], signature.args[1], types.intp)
    first = builder.mul(row, ir.Constant(row.type, LANES))
    vector = _vector(VECTORS[kind.dtype.name])
    return builder.bitcast(builder.gep(array.data, [first]), vector.as_pointer())


def _is_table(array: Any) -> bool:
    return isinstance(array, types.Array) and array.layout == "C" and array.dtype.name in VECTORS


@intrinsic
def load(typing_context: Any, array: Any, row: Any) -> Any:
    """Return lanes `LANES * row` and following of a contiguous array, whatever its shape."""
    if not (_is_table(array) and isinstance(row, types.Integer)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature, arguments), align=4)

    return VECTORS[array.dtype.name](array, row), generate


@intrinsic
def store(typing_context: Any, array: Any, row: Any, value: Any) -> Any:
    """Write lanes `LANES * row` and following of a contiguous array, whatever its shape."""
    if not (_is_table(array) and VECTORS[array.dtype.name] == value):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _pointer(context, builder, signature, arguments), align=4)
        return context.get_dummy_value()

    return types.void(array, row, value), generate


@intrinsic
def fill(typing_context: Any, value: Any) -> Any:
    """Return lanes that all hold one float32 or float64 number."""
    if not isinstance(value, types.Float):
        return None
    kind = VECTORS[value.name]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _filled(builder, kind, arguments[0])

    return kind(value), generate


def _filled(builder: Any, kind: Lanes, number: Any) -> Any:
    """Return a vector that holds one number in all lanes."""
    nothing = ir.Constant(_vector(kind), ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(ir.IntType(32), 0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), None)
    return builder.shuffle_vector(one, nothing, everywhere)


@intrinsic
def widen(typing_context: Any, value: Any) -> Any:
    """Return float32 lanes as float64, exactly."""
    if value != VECTORS["float32"]:
        return None
    kind = VECTORS["float64"]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fpext(arguments[0], _vector(kind))

    return kind(value), generate


@intrinsic
def narrow(typing_context: Any, value: Any) -> Any:
    """Return float64 lanes rounded to float32."""
    if value != VECTORS["float64"]:
        return None
    kind = VECTORS["float32"]

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fptrunc(arguments[0], _vector(kind))

    return kind(value), generate


@intrinsic
def transpose(typing_context: Any, source: Any, row: Any, target: Any, place: Any) -> Any:
    """Write `LANES` rows of one array, from `row` on, as columns of another, from `place` on."""
    if not (_is_table(source) and source.dtype == getattr(target, "dtype", None)):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        read = _pointer(context, builder, kinds[0](*kinds[:2]), arguments[:2])
        write = _pointer(context, builder, kinds[2](*kinds[2:]), arguments[2:])

        def at(pointer: Any, i: int) -> Any:
            return builder.gep(pointer, [ir.Constant(ir.IntType(32), i)])

        rows = [builder.load(at(read, i), align=4) for i in range(LANES)]
        half = LANES // 2
        for _ in range(half.bit_length()):  # each time the first half is shuffled into the second
            pairs = [(rows[i], rows[i + half]) for i in range(half)]
            rows = [_interleaved(builder, *pair, first) for pair in pairs for first in (0, half)]
        for i, one in enumerate(rows):
            builder.store(one, at(write, i), align=4)
        return context.get_dummy_value()

    return types.void(source, row, target, place), generate


def _interleaved(builder: Any, a: Any, b: Any, first: int) -> Any:
    """Return a[first], b[first], a[first + 1], ... of two vectors, half of each."""
    places = [first + i // 2 + LANES * (i % 2) for i in range(LANES)]
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), places)
    return builder.shuffle_vector(a, b, mask)


def _call(builder: Any, name: str, kind: Lanes, arguments: Any) -> Any:
    """Call one of LLVM's functions of vectors."""
    vector = _vector(kind)
    full = f"{name}.v{LANES}f{kind.scalar.bitwidth}"
    signature = ir.FunctionType(vector, [vector] * len(arguments))
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, full), arguments)


@intrinsic
def away_from_zero(typing_context: Any, value: Any, least: Any) -> Any:
    """Return lanes of at least the magnitude `least`, float64, with the signs that they have."""
    if not (isinstance(value, Lanes) and least == types.float64):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes, number = arguments
        if value.scalar == types.float32:
            number = builder.fptrunc(number, LLVM_SCALARS["float32"])
        bound = _filled(builder, value, number)
        magnitude = _call(builder, "llvm.fabs", value, [lanes])
        small = builder.fcmp_ordered("<", magnitude, bound)
        return builder.select(small, _call(builder, "llvm.copysign", value, [bound, lanes]), lanes)

    return value(value, least), generate


def _unary(name: str, meaning: str) -> Any:
    @intrinsic
    def apply(typing_context: Any, value: Any) -> Any:
        if not isinstance(value, Lanes):
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _call(builder, name, value, arguments)

        return value(value), generate

    apply.__doc__ = meaning
    return apply


absolute = _unary("llvm.fabs", "Return the magnitudes of lanes.")
square_root = _unary("llvm.sqrt", "Return the square roots of lanes, correctly rounded.")


@intrinsic
def larger(typing_context: Any, a: Any, b: Any) -> Any:
    """Return the larger of two vectors, lane by lane; the first where it is not a number."""
    if not (isinstance(a, Lanes) and a == b):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_unordered(">", *arguments), *arguments)

    return a(a, b), generate


@intrinsic
def chosen(typing_context: Any, mask: Any, a: Any, b: Any) -> Any:
    """Return the first of two vectors in lanes where `mask` is above 0, the second elsewhere."""
    if not (isinstance(a, Lanes) and a == b == mask):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        condition = builder.fcmp_ordered(">", arguments[0], ir.Constant(_vector(a), None))
        return builder.select(condition, *arguments[1:])

    return a(mask, a, b), generate


def _arithmetic(operation: Any, name: str) -> None:
    @intrinsic
    def apply(typing_context: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments)

        return a(a, b), generate

    @overload(operation)
    def _operate(a, b) -> Any:  # noqa: ANN001 - Numba wants the parameters of what it returns
        if isinstance(a, Lanes) and a == b:
            return lambda a, b: apply(a, b)
        return None


for _operation, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_operation, _name)
