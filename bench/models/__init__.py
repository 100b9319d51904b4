"""Predictors whose complexity has a name, as pure modules without training."""
