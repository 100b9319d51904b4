"""One run: configuration, data, model, Trainer, record. A stack of cells is run like one cell."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytorch_lightning as lightning
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from bench.callbacks import Checkpoints, Progress, Recorder
from bench.config import Cell, typed
from bench.learners.base import Learner, LearnerConfig, TrainerConfig
from bench.tracking.place import Place
from bench.tracking.tracker import Tracker

CHECKPOINT_FILE = "last.ckpt"


@dataclass(frozen=True)
class Settings:
    """Where and how runs are computed and kept; nothing that changes their numbers.

    What of `trainer` changes numbers, such as its bound on the epochs, is each cell's own.
    """

    place: Place
    trainer: TrainerConfig
    root: str | None = None

    def trainer_of(self, cell: Cell) -> TrainerConfig:
        """Return the trainer with what a cell says of it."""
        own = dict(cell.config["trainer"])
        del own["_target_"]
        return replace(self.trainer, **own)


def stack_folder(place: Place, cells: Sequence[Cell]) -> Path:
    """Return the folder of the checkpoints of cells that train together."""
    keys = "".join(sorted(cell.run_key for cell in cells))
    return place.folder / ".stacks" / hashlib.sha256(keys.encode()).hexdigest()[:16]


def run(
    cells: Sequence[Cell],
    settings: Settings,
    on_progress: Callable[[Learner], None] = lambda learner: None,
) -> Learner:
    """Train cells together, from their checkpoint if there is one, and record each of them.

    Raises
    ------
    Held
        If other processes train all of them.
    """
    config: LearnerConfig = typed(cells[0].config["learner"], "learner")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic CUDA products
    lightning.seed_everything(cells[0].config["seed"], verbose=False)
    with Tracker(cells, settings.place, config.step) as tracker:
        limits = settings.trainer_of(cells[0])
        checkpoints = Checkpoints(
            stack_folder(settings.place, tracker.cells) / CHECKPOINT_FILE,
            limits.checkpoint_every_s,
        )
        learner, data = config.build(tracker.cells, limits, settings.root)
        trainer = lightning.Trainer(
            max_epochs=-1,  # the learner says when it is done
            accelerator=limits.accelerator,
            devices=1,
            deterministic=True,
            plugins=[LightningEnvironment()],  # one process, in a SLURM job too
            callbacks=[Recorder(tracker), Progress(on_progress), checkpoints],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        try:
            trainer.fit(learner, data, ckpt_path=checkpoints.existing(), weights_only=True)
        except SystemExit:
            if trainer.interrupted:  # Lightning turns Ctrl-C into a plain exit
                raise KeyboardInterrupt from None
            raise
    checkpoints.discard()
    return learner
