"""Products of real matrices with 0/1 indicator matrices.

A batch of discrete inputs is a 0/1 matrix, and a 0/1 matrix is exact in every format. So only the
real factor of the product needs its 24 bits: on CUDA it is cut into three bfloat16 pieces, which
are multiplied with float32 accumulation. Anywhere else, and in float64, the product is the ordinary
one. Stacks of predictors train on a CPU by `bench.kernels.tiles`, without any such product.
"""

import torch
from torch import Tensor


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

    def _product(self, values: Tensor, transpose: bool) -> Tensor:
        """Multiply by the matrix, or by its transpose without the column of ones."""

        def factor(dtype: torch.dtype) -> Tensor:
            matrix = self._as(dtype)
            return matrix[:, :-1].t() if transpose else matrix

        sums_in_float32 = values.is_cuda and hasattr(torch.ops.aten.mm, "dtype")
        if not (sums_in_float32 and values.dtype == torch.float32):
            return values @ factor(values.dtype)
        right = factor(torch.bfloat16)
        pieces = reversed(split_bfloat16(values))
        return sum(torch.mm(piece, right, out_dtype=torch.float32) for piece in pieces)  # pyright: ignore[reportReturnType, reportCallIssue]

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
        product = self._product(difference, transpose=True)
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
        # Integers of this size are exact in float32, whatever the order of the sum.
        return self.select_sum(mask.float()).to(torch.int32)

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
        product = self._product(values, transpose=False)
        shape = (*product.shape[:-1], self.levels - 1, self.inputs)
        upper, everything = product[..., :-1].view(shape), product[..., -1:, None]
        lowest = everything - upper.sum(-2, keepdim=True, dtype=product.dtype)
        sums = torch.cat([lowest, upper], -2)
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
