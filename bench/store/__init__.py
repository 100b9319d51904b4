"""Writing runs, as record files and W&B runs, and reading them back."""
