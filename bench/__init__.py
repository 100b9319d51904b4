"""rankbench: a benchmark suite for people who study why trained networks generalize."""
