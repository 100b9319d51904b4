"""What the theory speaks of, measured: pure functions of tensors and trajectories."""
