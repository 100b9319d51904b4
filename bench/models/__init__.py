"""Predictors whose complexity has a name, as pure modules without training."""

from bench.models.cp import CPFactorization

__all__ = ["CPFactorization"]
