"""The suite from Python: ``import rankbench`` is this module under the package's name.

Examples
--------
>>> import rankbench
>>> runs = rankbench.bench("tensor_rank", "ranks=1", "classes=0", "seeds=0", "trainer.max_epochs=5")
>>> sorted(set(runs["variant"]))
['original', 'random_images', 'random_labels']
>>> model = rankbench.load_model(runs.index[0])
>>> images, labels = rankbench.load_data("digits").read(None, "test")
>>> model.module(model.transform(images)).shape
torch.Size([360])
"""

import pandas as pd

from bench.commands.training import benchmarked
from bench.configuration import compose
from bench.core.settings import load
from bench.measures.locality import locality
from bench.models.arithmetic_circuit import ConvArithmeticCircuit
from bench.models.cp import CPFactorization, CPPredictor
from bench.models.hierarchical import HierarchicalTensorFactorization
from bench.models.linear import LinearPredictor
from bench.models.matrix import MatrixFactorization
from bench.models.tubal import TubalFactorization
from bench.plan import check, plan_benchmark
from bench.regularizers import InputGradientChange, Patch, RandomPatch
from bench.store.models import TrainedModel, load_model
from bench.store.results import Results, load_runs
from data_prep.images import ImageData

__all__ = [
    "CPFactorization",
    "CPPredictor",
    "ConvArithmeticCircuit",
    "HierarchicalTensorFactorization",
    "InputGradientChange",
    "LinearPredictor",
    "MatrixFactorization",
    "Patch",
    "RandomPatch",
    "Results",
    "TrainedModel",
    "TubalFactorization",
    "bench",
    "load_data",
    "load_model",
    "load_runs",
    "locality",
]


def bench(name: str, *overrides: str) -> pd.DataFrame:
    """Run a benchmark as ``rankbench bench NAME KEY=VALUE...`` does; return its runs.

    Parameters
    ----------
    name : str
        The benchmark.
    *overrides : str
        Hydra overrides, such as ``"data=mnist"``, ``"ranks=1,2"``.

    Returns
    -------
    DataFrame
        One row per run, indexed by run key: see `bench.store.results.Results`.

    Raises
    ------
    UserError
        If an override does not fit, before any training.
    """
    plan = plan_benchmark(name, overrides)
    check(plan.cells, plan.sweep.max_memory)
    _, results = benchmarked(plan)
    return results.frame.loc[[cell.run_key for cell in plan.cells]]


def load_data(name: str, *overrides: str) -> ImageData:
    """Return a data set of the config group ``data``, such as ``"mnist"``.

    Parameters
    ----------
    name : str
        The data set.
    *overrides : str
        Its settings, such as ``"data.levels=4"`` or ``"data.file=mine.npz"``.
    """
    return load(compose([f"data={name}", *overrides])["data"], "data")
