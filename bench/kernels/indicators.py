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
    """A batch of discrete inputs, ready for products with one column per (level, input) pair.

    Parameters
    ----------
    indices : Tensor
        Shape (batch, inputs), any integer type, values from 0 to levels - 1.
    levels : int
        How many values each input takes.
    """

    def __init__(self, indices: Tensor, levels: int) -> None:
        self.shape = levels, indices.shape[1]
        self.matrix = torch.cat([indices == level for level in range(levels)], 1)
        self._converted: dict[torch.dtype, Tensor] = {}

    def __len__(self) -> int:
        return len(self.matrix)

    def _as(self, dtype: torch.dtype) -> Tensor:
        if dtype not in self._converted:
            self._converted[dtype] = self.matrix.to(dtype)
        return self._converted[dtype]

    def _product(self, values: Tensor, transpose: bool) -> Tensor:
        """Multiply by the matrix or its transpose."""
        split = values.is_cuda and values.dtype == torch.float32
        right = self._as(torch.bfloat16 if split else values.dtype)
        right = right.t() if transpose else right
        if not split:
            return values @ right
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
        return self._product(table.flatten(1), transpose=True)

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
        return self._product(values, transpose=False).unflatten(1, self.shape)


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
        per input, then a column of ones. The lowest level is what remains of the ones.
    """
    batch, inputs = indices.shape
    matrix = indices.new_ones((batch, (levels - 1) * inputs + 1), dtype=torch.int8)
    for level in range(1, levels):
        torch.eq(indices, level, out=matrix[:, (level - 1) * inputs : level * inputs])
    return matrix
