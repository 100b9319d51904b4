"""LightningModules, one a family of tasks."""
