"""Bad input, in number: whatever is given, one line of refusal or a result; nothing else.

30,000 inputs in all; `FUZZ_SHARE=0.1` takes a tenth of them.
"""

import json
import os
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import fields
from importlib import import_module
from io import BytesIO, StringIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from bench.cli import SUMMARIES, main
from bench.configuration import choices, compose
from bench.core.errors import UserError
from bench.core.settings import validate
from bench.store.record import DamagedRecord, Record, read_record, write_plan
from bench.store.results import Results, flatten
from data_prep import cifar10, own_data
from data_prep.cifar10 import CIFAR10JPEG
from data_prep.own_data import ArrayFile
from data_prep.torchvision_images import MNIST, TorchvisionImages

pytestmark = pytest.mark.stress

CPU_SECONDS, SECONDS = 10, 120  # a busy machine may take longer, without working longer
SHARE = float(os.environ.get("FUZZ_SHARE", "1"))


def inputs(count):
    """Draw so many inputs, or the share of them that is asked for."""
    return settings(
        max_examples=max(1, round(count * SHARE)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


@contextmanager
def no_hang():
    """Let an input that hangs fail, whether it works or waits."""

    def ring(number, frame):
        raise AssertionError("it hangs")

    timers = {signal.ITIMER_PROF: CPU_SECONDS, signal.ITIMER_REAL: SECONDS}
    signal.signal(signal.SIGPROF, ring)
    signal.signal(signal.SIGALRM, ring)
    for timer, seconds in timers.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Run the command line without training or downloads; return exit code and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANKBENCH_DATA", raising=False)

    def no_download(self, folder, missing, *, allowed):
        raise UserError(f"{folder} without {missing}", "a network")

    monkeypatch.setattr(TorchvisionImages, "_download", no_download)
    # An input that would train was taken, and that is all.
    for module in ("run", "training"):
        monkeypatch.setattr(f"bench.commands.{module}.train", lambda work, total: sys.exit(0))
    monkeypatch.setattr("bench.cli.exit_on_signals", lambda: None)

    def run(*arguments):
        out, error = StringIO(), StringIO()
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.stderr", error)
        with no_hang(), pytest.raises(SystemExit) as stop:
            main(list(arguments))
        return stop.value.code, error.getvalue()

    return run


def refused_in_one_line(code, error):
    """Whether an input was taken, or refused as the command line refuses."""
    lines = error.splitlines()
    if code == 2:
        return len(lines) == 1 and lines[0].startswith("rankbench: ")
    return code in (0, 1) and "Traceback" not in error


def keys():
    """The dotted keys of all benchmarks' configurations, groups among them."""
    groups = ("data", "model", "learner", "optimizer", "regularizer", "trainer", "execution")
    known = {*groups, "experiment", "case", "benchmark"}
    for name in choices("benchmark"):
        known |= set(flatten(compose([f"benchmark={name}"])))
    return sorted(known - {"runs_dir", "results_dir"})


KINDS = ["u1", "i8", "f4", "f8", "?", "U2", "M8[s]"]
shapes = array_shapes(min_dims=1, max_dims=3, max_side=12)
words = st.text(min_size=1, max_size=12)
junk = st.sampled_from(
    ["", "null", "-1", "0", "1e309", "nan", "inf", "[]", "[1,2", "{a:1}", "[[1],[2]]", "''", "true"]
    + [
        "${x}",
        "${oc.env:HOME}",
        "../..",
        "\0",
        "1,2",
        "1,",
        "é",
        "1" * 40,
        "[null]",
        "a=b",
        "range(3)",
    ]
    + [name for group in ("data", "model", "learner", "trainer") for name in choices(group)]
)
values = st.one_of(junk, words, st.integers().map(str), st.floats().map(str))
overrides = st.builds(
    "{}{}={}".format,
    st.sampled_from(["", "", "", "+", "++", "~"]),
    st.one_of(st.sampled_from(keys()), words),
    values,
)


@inputs(3000)
@given(verb=st.sampled_from(["run", "bench"]), given=st.lists(overrides, min_size=1, max_size=3))
def test_overrides(call, tmp_path, verb, given):
    given = [word for word in given if not word.startswith("-")]
    head = [verb] if verb == "run" else [verb, "tensor_rank"]
    code, error = call(*head, *given)
    assert refused_in_one_line(code, error), (given, code, error)
    assert not list(tmp_path.glob("**/*.tmp"))


@inputs(6000)
@given(st.lists(st.one_of(st.sampled_from([*SUMMARIES, "--help"]), overrides, words), max_size=4))
def test_command_lines(call, monkeypatch, arguments):
    for name in SUMMARIES:  # what the parser lets through is tested above
        command = import_module(f"bench.commands.{name}").command
        monkeypatch.setattr(command, "callback", lambda **_: 0)
    code, error = call(*arguments)
    assert refused_in_one_line(code, error), (arguments, code, error)


jsons = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


@inputs(7000)
@given(
    change=st.dictionaries(
        st.sampled_from([field.name for field in fields(Record)]), jsons, max_size=3
    ),
    cut=st.one_of(st.none(), st.integers(0, 3000)),
    flips=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=2),
)
def test_record_files(tmp_path, sound_record, change, cut, flips):
    content = bytearray(json.dumps({**sound_record, **change}).encode()[:cut])
    for position, value in flips:
        if position < len(content):
            content[position] = value
    path = tmp_path / "tensor_rank" / sound_record["run_key"] / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with no_hang():
        messages = ()
        try:
            read_record(path)
        except DamagedRecord as damage:
            messages = (str(damage),)
        results = Results.from_runs(tmp_path)
        results.write(tmp_path)
    assert results.damaged == messages
    assert len(results.frame) + len(messages) == 1
    assert all(len(line.splitlines()) == 1 for line in messages)


@pytest.fixture(scope="module")
def sound_record(tmp_path_factory):
    """A record as a run writes it."""
    folder = tmp_path_factory.mktemp("sound")
    with pytest.raises(SystemExit):
        main(["run", "trainer.max_epochs=1", "tracking.mode=disabled", f"runs_dir={folder}"])
    (path,) = folder.glob("single/*/record.json")
    return json.loads(path.read_text())


READERS = [["runs"], ["runs", "--verify"], ["table", "tensor_rank"], ["figure", "tensor_rank"]]
READERS += [["compare", "tensor_rank", "--by", "variant"], ["report"], ["bench", "tensor_rank"]]
READERS += [
    [command, "tensor_rank", *more, "--from", "results"]
    for command, more in (("table", []), ("figure", []), ("compare", ["--by", "variant"]))
]
FOREIGN = ["runs/*/*/record.json", "runs/*/.plans/*.json"]
FOREIGN += ["results/*/runs.parquet", "results/*/curves.parquet"]


def places(value):
    """Yield every place in nested JSON, as a container and a key of it."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


@inputs(4000)
@given(
    reader=st.sampled_from(READERS),
    pattern=st.sampled_from(FOREIGN),
    place=st.one_of(st.none(), st.integers(0, 200)),
    value=jsons,
    cut=st.one_of(st.none(), st.none(), st.integers(0, 3000)),
    flips=st.lists(st.tuples(st.integers(0, 9000), st.integers(0, 255)), max_size=3),
)
def test_foreign_folders(call, folders, tmp_path, reader, pattern, place, value, cut, flips):
    """Every command that reads runs and results, with one file in them that somebody changed."""
    sound = next((tmp_path / "sound").glob(pattern))
    content = bytearray(sound.read_bytes())
    if sound.suffix == ".json" and place is not None:
        changed = json.loads(content)
        known = list(places(changed))
        container, key = known[place % len(known)]
        container[key] = value
        content = bytearray(json.dumps(changed).encode())
    content = content[:cut]
    for position, byte in flips:
        if position < len(content):
            content[position] = byte
    given = tmp_path / "given" / sound.relative_to(tmp_path / "sound")
    given.write_bytes(content)
    settings = [f"{name}_dir={tmp_path}/given/{name}" for name in ("runs", "results")]
    settings += ["ranks=[1]", "seeds=[0]", "classes=[0]"]
    settings = settings[: {"runs": 1, "bench": 5}.get(reader[0], 2)]
    settings += ["tracking.mode=disabled"] if reader[0] in ("bench", "figure") else []
    code, error = call(*reader, *settings)
    shutil.copy(sound, given)
    assert refused_in_one_line(code, error), (reader, given, bytes(content), code, error)
    assert not list(tmp_path.glob("**/*.tmp"))


@pytest.fixture
def folders(made_up_runs, tmp_path):
    """A folder of runs with a plan and one of results, to be kept sound and to be changed."""
    runs, results = tmp_path / "sound" / "runs", tmp_path / "sound" / "results" / "tensor_rank"
    records = made_up_runs(runs, classes=(0,), seeds=(0, 1))
    cells = {path.name: read_record(path / "record.json").config for path in records.values()}
    write_plan(runs / "tensor_rank", "rankbench bench tensor_rank", cells)
    results.mkdir(parents=True)
    Results.from_runs(runs).write(results)
    shutil.copytree(tmp_path / "sound", tmp_path / "given")


@inputs(2500)
@given(
    x=st.one_of(
        arrays(st.sampled_from(["u1", "i8", "f4", "f8", "?", "U2", "M8[s]"]), shapes), junk
    ),
    y=st.one_of(arrays(st.sampled_from(["i8", "u1", "f4", "S1"]), st.integers(0, 12)), junk),
    names=st.sampled_from(["x y", "x y", "x labels", "x y x_test y_test"]),
    flips=st.lists(st.tuples(st.integers(0, 900), st.integers(0, 255)), max_size=2),
)
def test_own_arrays(tmp_path, x, y, names, flips):
    """Arrays of any kind, and damaged files: samples with one label each, or one line."""
    path = tmp_path / "mine.npz"
    np.savez(path, **dict(zip(names.split(), (x, y, x, y), strict=False)))
    content = bytearray(path.read_bytes())
    for position, byte in flips:
        if position < len(content):
            content[position] = byte
    path.write_bytes(content)
    own_data._read_file.cache_clear()
    with no_hang():
        said = ""
        try:
            data = validate(ArrayFile, {"file": str(path)}, "data")
            for part in data.arrays.parts.values():
                assert len(part.images) == len(part.labels) > 0
                assert 0 <= part.images.min() <= part.images.max() <= data.brightest
                assert 0 <= part.labels.min() <= part.labels.max() < data.classes
        except UserError as refusal:
            said = str(refusal)
    assert len(said.splitlines()) <= 1


@inputs(6000)
@given(
    head=st.lists(st.integers(0, 255), min_size=0, max_size=16),
    body=st.binary(max_size=64),
    verified=st.booleans(),
)
def test_idx_files(tmp_path, head, body, verified):
    """Files that are not the published ones are refused; so are those that only look right."""
    import hashlib

    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    digests = {}
    for name in MNIST.sha256:
        (folder / name).write_bytes(bytes(head) + body)
        digests[name] = hashlib.sha256(bytes(head) + body).hexdigest()
    data = MNIST()
    with pytest.MonkeyPatch.context() as patch:
        if verified:
            patch.setattr(MNIST, "sha256", digests)
        with no_hang(), pytest.raises(UserError) as refusal:
            data.read(str(tmp_path), "train")
    assert len(str(refusal.value).splitlines()) == 1


@inputs(1500)
@given(
    cut=st.one_of(st.none(), st.integers(0, 700)),
    flips=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_image_files(tmp_path, one_image, cut, flips):
    """A damaged image is refused in one line, or read if all of it can be made out."""
    content = bytearray(one_image[:cut])
    for place, value in flips:
        if place < len(content):
            content[place] = value
    for name in map(str, range(10)):
        folder = tmp_path / "cifar10" / "train" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "image.jpg").write_bytes(one_image if name != "3" else content)
    cifar10._read_folders.cache_clear()
    with no_hang():
        said = ""
        try:
            images = CIFAR10JPEG().read(str(tmp_path), "train").images
            assert images.shape == (10, 32, 32)
        except UserError as refusal:
            said = str(refusal)
    assert len(said.splitlines()) <= 1


@pytest.fixture(scope="module")
def one_image():
    """A JPEG file of 32 x 32 pixels."""
    pixels = np.random.default_rng(0).integers(256, size=(32, 32, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "jpeg")
    return file.getvalue()
