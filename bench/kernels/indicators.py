"""Products of real matrices with 0/1 indicator matrices: float32 accuracy at less than its cost.

A batch of discrete inputs is a 0/1 matrix, and a 0/1 matrix is exact in every format. So only the
real factor of the product needs its 24 bits, and it can be cut into pieces of a cheaper format:

* on a CPU with AVX-512, into three signed base-256 digits, multiplied as int8 and accumulated
  *exactly* in int32. The result does not depend on how many rows are computed together, so a
  predictor gets the same bits alone as in a stack of hundreds;
* on CUDA, into three bfloat16 pieces with float32 accumulation;
* anywhere else, and in float64, the product is the ordinary one.
"""

from functools import cache

import torch
from torch import Tensor

DIGITS = 3
FRACTION_BITS = 22  # three signed base-256 digits hold every integer up to 127 * 65793 > 2**22
BIAS = 0x808080  # turns signed digits into unsigned bytes and back
SMALLEST_EXPONENT = -100  # rows below 2**-100 are below anything an optimizer can feel


@cache
def product_kind(device_type: str, dtype: torch.dtype) -> str:
    """Return how products are computed: ``"int8"``, ``"bfloat16"`` or ``"plain"``."""
    if dtype != torch.float32:
        return "plain"
    if device_type == "cuda" and hasattr(torch.ops.aten.mm, "dtype"):
        return "bfloat16"
    if device_type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512":
        return "int8" if int8_products_are_exact() else "plain"
    return "plain"


def int8_products_are_exact() -> bool:
    """Try the largest digits: processors without VNNI may saturate sums of pairs in 16 bits."""
    ones = torch.ones(256, 32, dtype=torch.int8)
    extremes = torch.tensor([-128, 127], dtype=torch.int8).repeat_interleave(16)
    products = int8_product(extremes[:, None].expand(32, 256).contiguous(), ones)
    return torch.equal(products, (256 * extremes.int())[:, None].expand(32, 32))


def int8_product(left: Tensor, right: Tensor) -> Tensor:
    """Return the exact int32 product of two int8 matrices."""
    return torch._int_mm(left, right)  # pyright: ignore[reportPrivateImportUsage]


def split_digits(values: Tensor) -> tuple[Tensor, Tensor]:
    """Write each row of `values` in fixed point, as three signed base-256 digits.

    Parameters
    ----------
    values : Tensor
        Shape (rows, columns), float32.

    Returns
    -------
    digits : Tensor
        Shape (3 * rows, columns), int8, least significant digits first.
    unit : Tensor
        Shape (rows, 1), float32: the value of one least significant unit, a power of two; NaN in a
        row that holds a value that is not finite. Each entry is kept to half a unit, and the unit
        is at most 2**-21 of the largest magnitude in its row.
    """
    rows, columns = values.shape
    largest = values.abs().amax(1, keepdim=True)
    exponent = torch.frexp(largest).exponent.clamp_(min=SMALLEST_EXPONENT)
    fixed = (values * _power_of_two(FRACTION_BITS - exponent)).round_().to(torch.int32)
    fixed.add_(BIAS).bitwise_xor_(BIAS)
    digits = values.new_empty((DIGITS, rows, columns), dtype=torch.int8)
    for digit in digits:
        digit.copy_(fixed)  # keeps the lowest byte
        fixed >>= 8
    unit = _power_of_two(exponent - FRACTION_BITS)
    return digits.view(DIGITS * rows, columns), unit.where(largest.isfinite(), torch.nan)


def _power_of_two(exponent: Tensor) -> Tensor:
    """Return 2**exponent in float32, exactly, for exponents from -126 to 127."""
    return ((exponent + 127) << 23).to(torch.int32).view(torch.float32)


def join_digits(digits: Tensor, unit: Tensor) -> Tensor:
    """Return the float32 matrix whose digit sums are `digits`, of shape (3, rows, columns)."""
    low, middle, high = digits.unbind()
    return high.float().mul_(256).add_(middle).mul_(256).add_(low).mul_(unit)


def split_bfloat16(values: Tensor) -> list[Tensor]:
    """Split float32 `values` into three bfloat16 tensors that sum to them up to 2**-24."""
    pieces = []
    for _ in range(3):
        pieces.append(values.to(torch.bfloat16))
        values = values - pieces[-1].float()
    return pieces


class IndicatorBatch:
    """A batch of discrete inputs, ready for products with one column a (level, input) pair.

    Parameters
    ----------
    matrix : Tensor
        Shape (batch, (levels - 1) * inputs + 1), int8, as `indicator_matrix` makes it.
    levels : int
        How many values each input takes.
    """

    def __init__(self, matrix: Tensor, levels: int) -> None:
        self.matrix = matrix
        self.levels = levels
        self.inputs = (matrix.shape[1] - 1) // (levels - 1)
        self._converted: dict[torch.dtype, Tensor] = {}

    def __len__(self) -> int:
        return len(self.matrix)

    def _as(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._converted:
            self._converted[dtype] = self.matrix.to(dtype)
        return self._converted[dtype]

    def _product(self, values: Tensor, kind: str, transpose: bool) -> tuple[Tensor, Tensor | None]:
        """Multiply by the matrix, or by its transpose without the column of ones.

        Returns int32 digit sums of shape (3, rows, columns) and their unit, or the product itself
        and None.
        """

        def factor(dtype: torch.dtype) -> Tensor:
            matrix = self.matrix if dtype == torch.int8 else self._as(dtype)
            return matrix[:, :-1].t() if transpose else matrix

        if kind == "int8":
            digits, unit = split_digits(values)
            sums = int8_product(digits, factor(torch.int8))
            return sums.view(DIGITS, len(values), -1), unit
        if kind == "bfloat16":
            right = factor(torch.bfloat16)
            pieces = reversed(split_bfloat16(values))
            return sum(torch.mm(piece, right, out_dtype=torch.float32) for piece in pieces), None  # pyright: ignore[reportReturnType, reportCallIssue]
        return values @ factor(values.dtype), None

    def select_sum(self, table: Tensor) -> Tensor:
        """Sum, for every sample, the table's entries that its inputs select.

        Parameters
        ----------
        table : Tensor
            Shape (rows, levels, inputs), floating point.

        Returns
        -------
        Tensor
            Shape (rows, batch): ``sum_n table[row, x_n, n]``.
        """
        difference = (table[:, 1:] - table[:, :1]).flatten(1)
        kind = product_kind(table.device.type, table.dtype)
        product, unit = self._product(difference, kind, transpose=True)
        if unit is not None:
            product = join_digits(product, unit)
        return product.add_(table[:, 0].sum(1, keepdim=True))

    def select_count(self, mask: Tensor) -> Tensor:
        """Count, for every sample, the marked entries that its inputs select.

        Parameters
        ----------
        mask : Tensor
            Shape (rows, levels, inputs), bool.

        Returns
        -------
        Tensor
            Shape (rows, batch), int32.
        """
        marked = mask.to(torch.int8)
        difference = (marked[:, 1:] - marked[:, :1]).flatten(1)
        if product_kind(mask.device.type, torch.float32) == "int8":
            counts = int8_product(difference, self.matrix[:, :-1].t())
        else:
            # Integers of this size are exact in float32, whatever the order of the sum.
            counts = (difference.float() @ self._as(torch.float32)[:, :-1].t()).to(torch.int32)
        return counts.add_(marked[:, 0].sum(1, keepdim=True, dtype=torch.int32))

    def level_sums(self, values: Tensor) -> Tensor:
        """Sum, for every level of every input, the values of the samples that take it.

        The transpose of `select_sum`. A level that no sample of the batch takes gets exactly 0.

        Parameters
        ----------
        values : Tensor
            Shape (rows, batch), floating point.

        Returns
        -------
        Tensor
            Shape (rows, levels, inputs).
        """
        kind = product_kind(values.device.type, values.dtype)
        product, unit = self._product(values, kind, transpose=False)
        shape = (*product.shape[:-1], self.levels - 1, self.inputs)
        upper, everything = product[..., :-1].view(shape), product[..., -1:, None]
        lowest = everything - upper.sum(-2, keepdim=True, dtype=product.dtype)
        sums = torch.cat([lowest, upper], -2)
        if unit is not None:
            return join_digits(sums, unit[..., None])
        # In floating point the difference leaves rounding where nothing was summed.
        taken = self._as(values.dtype)[:, :-1].sum(0).view(self.levels - 1, self.inputs).sum(0)
        sums[:, 0].masked_fill_(taken == len(self), 0)
        return sums


def indicator_matrix(indices: Tensor, levels: int) -> Tensor:
    """Return the 0/1 matrix of discrete inputs.

    Parameters
    ----------
    indices : Tensor
        Shape (batch, inputs), any integer type, values from 0 to levels - 1.
    levels : int
        How many values each input takes, at least 2.

    Returns
    -------
    Tensor
        Shape (batch, (levels - 1) * inputs + 1), int8: for each level above the lowest one column
        an input, then a column of ones. The lowest level is what remains of the ones.
    """
    batch, inputs = indices.shape
    matrix = indices.new_ones((batch, (levels - 1) * inputs + 1), dtype=torch.int8)
    for level in range(1, levels):
        torch.eq(indices, level, out=matrix[:, (level - 1) * inputs : level * inputs])
    return matrix
