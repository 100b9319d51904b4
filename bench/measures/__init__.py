"""What the theory speaks of, measured: pure functions of tensors and trajectories."""

from bench.measures.balancedness import largest_drift, layer_differences, vector_differences
from bench.measures.ranks import (
    component_norms,
    effective_rank,
    numerical_rank,
    rank_one_distance,
)
from bench.measures.subspaces import leading_tubal_subspace, tubal_principal_angle
from bench.measures.trajectories import (
    GrowthLaw,
    component_drives,
    expected_exponent,
    fit_growth_law,
    pool_growth_laws,
    singular_value_drives,
)

__all__ = [
    "GrowthLaw",
    "component_drives",
    "component_norms",
    "effective_rank",
    "expected_exponent",
    "fit_growth_law",
    "largest_drift",
    "layer_differences",
    "leading_tubal_subspace",
    "numerical_rank",
    "pool_growth_laws",
    "rank_one_distance",
    "singular_value_drives",
    "tubal_principal_angle",
    "vector_differences",
]
