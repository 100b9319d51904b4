import os

os.environ.setdefault("WANDB_SILENT", "true")

from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("suite")
