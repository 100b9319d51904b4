"""Optimizers that no library has."""

from bench.optim.group_rmsprop import GroupRMSprop

__all__ = ["GroupRMSprop"]
