"""The suite from Python: runs, models that predict what was recorded, the documented example."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

from bench import public
from bench.core.errors import UserError

FEW = ["classes=3", "ranks=2", "seeds=0", "variants=[original]", "tracking.mode=disabled"]


@pytest.mark.parametrize("learner", ["cp", "linear"])
def test_a_loaded_predictor_has_the_recorded_test_error(learner, tmp_path):
    words = [f"runs_dir={tmp_path}", "trainer.max_epochs=30"]
    runs = public.bench("tensor_rank", *FEW, *words)
    run = runs[runs["model.name"] == learner].iloc[0]
    model = public.load_model(run.name, tmp_path)
    images, labels = public.load_data("digits").read(None, "test")
    scores = model.module(model.transform(images))
    errors = (scores - 2.0 * (labels == 3)).square() / 4  # targets are 0 and 2 [TF]
    assert errors.clamp(max=1).mean().item() == pytest.approx(run.test_error, rel=1e-4)
    assert model.record.run_key == run.name


def test_a_loaded_circuit_and_factorization_have_the_recorded_weights(rankbench, tmp_path):
    for words in (
        ["data=digits", "model=circuit", "learner=circuits", "trainer.max_epochs=1"],
        ["data=matrix_completion", "model=matrix", "learner=dynamics", "trainer.max_steps=5"],
    ):
        code, _, error = rankbench("run", *words, f"runs_dir={tmp_path}", "tracking.mode=disabled")
        assert code == 0, error
    for path in tmp_path.glob("single/*/model.pt"):
        module = public.load_model(path.parent.name, tmp_path).module
        stored = torch.load(path, weights_only=True)
        assert stored.keys() == module.state_dict().keys()
        assert all(torch.equal(stored[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("key", ["0123456789abcdef", "../../etc", "short"])
def test_a_run_that_is_not_there_is_named(key, tmp_path):
    with pytest.raises(UserError, match="expected"):
        public.load_model(key, tmp_path)


def test_the_documented_example_runs_under_the_package_s_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rankbench = importlib.import_module("rankbench")
    assert rankbench.__all__ == public.__all__
    assert all(hasattr(rankbench, name) for name in rankbench.__all__)
    failed, tried = doctest.testmod(rankbench, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 5
    assert failed == 0


@pytest.mark.slow
def test_the_documented_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    assert len(names["scores"]) == 360
    assert names["model"].record.run_key == names["runs"].index[0]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, 8), torch.nn.Tanh())
    network.append(torch.nn.Linear(8, 2))
    module = names["Mine"](network)
    loss = module.training_step((torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 0, 1])), 0)
    loss.backward()
    assert network[1].weight.grad.abs().sum() > 0
