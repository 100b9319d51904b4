"""Keeping other libraries' words out of ours."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Keep progress and tables readable: the libraries' own notes stay out of them."""
    os.environ.setdefault("WANDB_SILENT", "true")
    for name in ("pytorch_lightning", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric)\..*")
