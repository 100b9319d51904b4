"""`wandb sync` itself against a server of our own: what W&B uploads, and what is refused."""

import pytest
import wandb
from wandb_server import wandb_server

from bench.store.sync import offline_runs, sync
from bench.store.wandb_runs import TrackingConfig, open_run


@pytest.fixture
def server(monkeypatch):
    """Serve on this machine alone, for the length of one test."""
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        wandb.teardown()  # its settings were read before
        yield server
        wandb.teardown()


def record_offline(runs_dir, group, key):
    run = open_run(
        runs_dir / group / key,
        TrackingConfig(),
        group=group,
        job_type="digits/original",
        name=key,
        step="epoch",
        config={"seed": 0},
    )
    run.log({"epoch": 0, "train_error": 0.5}, step=0)
    run.finish()


def test_all_offline_runs_are_uploaded_once(server, rankbench, tmp_path):
    for key in ("one", "two"):
        record_offline(tmp_path, "tensor_rank", key)
    code, out, _ = rankbench("sync", f"runs_dir={tmp_path}")
    assert code == 0
    assert "2 of 2 runs uploaded" in out
    assert {*server.groups} >= {"tensor_rank"}
    code, out, _ = rankbench("sync", f"runs_dir={tmp_path}")
    assert code == 0
    assert "nothing to upload" in out


def test_what_fails_is_named_and_can_be_tried_again(server, rankbench, tmp_path):
    record_offline(tmp_path, "refused", "one")
    record_offline(tmp_path, "tensor_rank", "two")
    code, out, error = rankbench("sync", f"runs_dir={tmp_path}")
    assert code == 1
    assert "1 of 2 runs uploaded" in out
    assert "refused/one" in error
    assert [path.parents[2].name for path in offline_runs(tmp_path)] == ["one"]


def test_nothing_is_uploaded_without_a_key(rankbench, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    record_offline(tmp_path, "tensor_rank", "one")
    code, out, error = rankbench("sync", f"runs_dir={tmp_path}")
    assert (code, out) == (2, "")
    assert "wandb login" in error


def test_runs_are_uploaded_in_batches(monkeypatch, tmp_path):
    monkeypatch.setattr("bench.store.sync._wandb_sync", lambda files: f"{len(files)} refused")
    files = [tmp_path / f"{i}.wandb" for i in range(45)]
    seen = []
    failed = sync(files, seen.append)
    assert seen == [20, 20, 5]
    assert list(failed.values()) == ["20 refused"] * 40 + ["5 refused"] * 5
