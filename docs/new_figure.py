"""A figure that no benchmark has: how far test errors are from train errors, run by run.

python docs/new_figure.py runs generalization.png
"""

import sys

import matplotlib.pyplot as plt
import seaborn as sns

from bench.store.results import load_runs, usable

runs_dir, path = sys.argv[1:]
runs = load_runs(runs_dir, "tensor_rank")  # one row per run; help(Results) lists the columns
runs = runs[usable(runs)]
runs = runs.assign(gap=runs.test_error - runs.train_error)

figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
sns.pointplot(runs, x="model.rank", y="gap", hue="variant", errorbar=("ci", 95), ax=axis)
axis.set(xlabel="tensor rank", ylabel="test error - train error")
figure.savefig(path, dpi=160)
print(runs.groupby(["variant", "model.rank"]).gap.describe()[["count", "mean", "std"]])
