"""Nothing that is written tells whose machine it was, or a key."""

import getpass
import hashlib
import io
import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path

import forked
import pytest
import torch
from hooked import after_intervals

from bench.core.errors import UserError
from data_prep import cifar10

KEY = "0123456789abcdef" * 2 + "secretly"


@pytest.mark.slow
def test_what_is_written_names_no_key_path_user_or_machine(tmp_path):
    """One cell fails, so that its traceback is recorded too."""
    secret = {"WANDB_API_KEY": KEY, "USER": "somebody-with-a-name", "RANKBENCH_TOKEN": KEY}
    fault = "import bench.execute.run as h; "
    fault += f"h.Tracker.after_interval = lambda *_: open('{tmp_path}/runs/{KEY[:9]}').x; "
    command = ["bench", "tensor_rank", "classes=[0]", "seeds=[0]", "variants=[original]"]
    command += ["trainer.max_epochs=2", f"runs_dir={tmp_path / 'runs'}"]
    command += [f"results_dir={tmp_path / 'results'}", "tracking.entity=somebody-with-a-name"]
    command += [f"++data.root={tmp_path / 'data'}"]
    code, output = forked.run([*command, "ranks=[1]"], tmp_path, **secret)
    assert code == 0, output
    script = f"{fault}from bench.cli import main; main()"
    call = [sys.executable, "-c", script, *command, "ranks=[1,2]"]
    done = subprocess.run(call, env=os.environ | secret, text=True, capture_output=True)
    assert done.returncode == 1, done.stderr
    places = [f"runs_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"]
    forked.run(["report", *places], tmp_path, **secret)
    assert (tmp_path / "results" / "index.html").exists()
    written = [*tmp_path.glob("runs/*/*/record.json"), *tmp_path.glob("runs/*/.plans/*")]
    written += [path for path in tmp_path.glob("**/tensor_rank/*.*") if path.is_file()]
    written += [path for path in tmp_path.glob("runs/*/*/attempt.*") if path.stat().st_size]
    written += list(tmp_path.glob("results/**/*.*"))
    assert len(written) > 10
    assert any(b"FileNotFoundError" in path.read_bytes() for path in written)
    names = {KEY, "somebody-with-a-name", str(tmp_path), str(Path.home()), str(Path.cwd())}
    names |= {platform.node()} if len(platform.node()) > 3 else set()
    names |= {f"/home/{getpass.getuser()}", str(Path(sys.prefix))}
    for path in written:
        content = path.read_bytes()
        assert not [name for name in names if name.encode() in content], path
    everything = [path for path in tmp_path.glob("**/*") if path.is_file()]
    assert not [path for path in everything if KEY.encode() in path.read_bytes()]


def test_every_load_of_weights_is_of_weights_only():
    root = Path(__file__).parents[3]
    files = [*root.glob("bench/**/*.py"), *root.glob("data_prep/**/*.py")]
    text = {path: path.read_text() for path in files}
    loads = [
        (path, line)
        for path in files
        for line in text[path].splitlines()
        if "torch.load(" in line or "ckpt_path=" in line
    ]
    assert loads
    assert all("weights_only=True" in line for _, line in loads), loads
    assert not [path for path in files if "pickle.load" in text[path]]
    assert not [path for path in files if "yaml.load(" in text[path]]


def test_a_checkpoint_with_code_in_it_is_not_run(rankbench, tmp_path, monkeypatch):
    """It is refused, and the training starts anew."""

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    overrides = ["model=cp", "classes=[1]", "ranks=[2]", "seeds=[0]", "variants=[original]"]
    overrides += [
        "trainer.max_epochs=40",
        "trainer.checkpoint_every_s=0",
        "trainer.log_every_n_epochs=20",
        f"runs_dir={tmp_path}",
    ]

    def interrupt(learner):
        if list(tmp_path.glob("tensor_rank/.stacks/*/stack.json")):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        after_intervals(patch, interrupt)
        assert rankbench("bench", "tensor_rank", *overrides)[0] == 130
    (path,) = tmp_path.glob("tensor_rank/.stacks/*/*.ckpt")
    torch.save({"evil": Evil()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = path.with_name("stack.json")
    manifest.write_text(manifest.read_text().replace(path.stem, digest))
    path.rename(path.with_name(f"{digest}.ckpt"))
    code, _, error = rankbench("bench", "tensor_rank", *overrides)
    assert not (tmp_path / "executed").exists()
    assert code == 0, error  # it starts anew


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    with tarfile.open(root / cifar10.ARCHIVE, "w:xz") as archive:
        member = tarfile.TarInfo("cifar10/../../../outside")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(UserError, match="outside"):
        cifar10.CIFAR10JPEG().files(str(root))
    assert sorted(path.name for path in tmp_path.rglob("*")) == [cifar10.ARCHIVE, "data"]
