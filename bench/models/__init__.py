"""Predictors whose complexity has a name, as pure modules without training."""

from bench.models.convnet import ConvArithmeticCircuit
from bench.models.cp import CPFactorization
from bench.models.hierarchical import HierarchicalTensorFactorization
from bench.models.matrix import MatrixFactorization
from bench.models.tubal import TubalFactorization

__all__ = [
    "CPFactorization",
    "ConvArithmeticCircuit",
    "HierarchicalTensorFactorization",
    "MatrixFactorization",
    "TubalFactorization",
]
