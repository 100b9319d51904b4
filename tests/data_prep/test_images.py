"""Quantization, the data sets and their randomized controls."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.errors import UserError
from bench.seeding import generator
from data_prep.controls import control, variants
from data_prep.digits import Digits
from data_prep.images import Split, quantize
from data_prep.torchvision_images import MNIST, FashionMNIST, data_root


def split(name="train", samples=4000, pixels=30, levels=3, seed=0):
    draw = generator(seed, "made up", name)
    inputs = torch.randint(levels, (samples, pixels), generator=draw, dtype=torch.uint8)
    labels = torch.randint(10, (samples,), generator=draw)
    return Split(name, inputs, labels, levels)


@given(brightest=st.sampled_from([16, 255]), data=st.data())
def test_quantization_rounds_exactly(brightest, data):
    levels = data.draw(st.integers(2, brightest + 1))
    pixels = data.draw(st.lists(st.integers(0, brightest), min_size=1, max_size=20))
    image = torch.tensor(pixels, dtype=torch.uint8).view(1, 1, -1)
    exact = [round(Fraction(p, brightest) * (levels - 1)) for p in pixels]
    assert quantize(image, brightest, levels).tolist() == [exact]


@given(brightest=st.sampled_from([16, 255]), data=st.data())
def test_quantization_keeps_the_order_and_uses_every_level(brightest, data):
    levels = data.draw(st.integers(2, brightest + 1))
    ramp = torch.arange(brightest + 1).view(1, 1, -1)
    (quantized,) = quantize(ramp, brightest, levels).tolist()
    assert quantized == sorted(quantized)
    assert set(quantized) == set(range(levels))


def test_digits_are_split_by_class_and_always_alike():
    data = Digits("digits")
    parts = {name: data.split(None, name) for name in ("train", "test")}
    assert parts["train"].inputs.shape == (1437, 64)
    assert parts["test"].inputs.shape == (360, 64)
    shares = [part.labels.bincount(minlength=10) / len(part.labels) for part in parts.values()]
    assert (shares[0] - shares[1]).abs().max() < 0.005
    assert torch.equal(parts["train"].inputs, data.split(None, "train").inputs)


def test_there_are_the_published_variants():
    assert variants() == ["original", "random_images", "random_labels"]


def test_random_labels_are_a_permutation_and_images_stay():
    original = split()
    inputs, labels = control("random_labels").randomize(original, 1.0, 0)
    assert torch.equal(inputs, original.inputs)
    assert torch.equal(labels.sort().values, original.labels.sort().values)
    # A fixed point of a class's share is all that a permutation leaves in common.
    assert (labels == original.labels).float().mean() < 0.13


def test_random_images_are_uniform_and_labels_stay():
    original = split()
    inputs, labels = control("random_images").randomize(original, 1.0, 0)
    assert torch.equal(labels, original.labels)
    counts = torch.stack([inputs.eq(level).sum(0) for level in range(3)])
    assert stats.chisquare(counts.sum(1).numpy()).pvalue > 1e-3
    assert stats.chisquare(counts.numpy()).pvalue.min() > 1e-4
    correlation = torch.corrcoef(torch.stack([inputs.flatten(), original.inputs.flatten()]).float())
    assert correlation[0, 1].abs() < 0.01


@pytest.mark.parametrize("variant", ["random_images", "random_labels"])
def test_controls_depend_on_the_seed_and_on_the_part(variant):
    def both(name, seed):
        return torch.cat(
            [t.flatten().long() for t in control(variant).randomize(split(name), 1.0, seed)]
        )

    assert torch.equal(both("train", 3), both("train", 3))
    assert not torch.equal(both("train", 3), both("train", 4))
    draws = []
    for name in ("train", "test"):
        one = split("train")
        renamed = Split(name, one.inputs, one.labels, one.levels)
        draws.append(control(variant).randomize(renamed, 1.0, 3))
    assert any(not torch.equal(a, b) for a, b in zip(*draws, strict=True))


@pytest.mark.parametrize("variant", ["random_images", "random_labels"])
def test_a_fraction_of_zero_changes_nothing(variant):
    original = split()
    inputs, labels = control(variant).randomize(original, 0.0, 0)
    assert torch.equal(inputs, original.inputs)
    assert torch.equal(labels, original.labels)


def test_a_fraction_replaces_that_share():
    original = split()
    _, labels = control("random_labels").randomize(original, 0.5, 0)
    assert (labels != original.labels).float().mean() == pytest.approx(0.5 * 0.9, abs=0.03)
    inputs, _ = control("random_images").randomize(original, 0.5, 0)
    assert (inputs != original.inputs).float().mean() == pytest.approx(0.5 * 2 / 3, abs=0.01)


def test_a_draw_does_not_move_when_others_are_added():
    alone = torch.rand(5, generator=generator(0, "mine"))
    torch.rand(100, generator=generator(0, "another"))
    assert torch.equal(torch.rand(5, generator=generator(0, "mine")), alone)
    assert not torch.equal(torch.rand(5, generator=generator(1, "mine")), alone)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": 1}, "from 2 to 17"),
        ({"levels": 18}, "from 2 to 17"),
        ({"target_class": 10}, "0 to 9"),
        ({"target_class": -1}, "0 to 9"),
        ({"batch_size": 1438}, "1 to 1437"),
        ({"batch_size": 0}, "1 to 1437"),
        ({"fraction": 1.5}, "from 0 to 1"),
        ({"fraction": float("nan")}, "from 0 to 1"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Digits("digits", **{"batch_size": 96, **values})


def test_an_unknown_variant_is_refused():
    with pytest.raises(UserError, match="random_images, random_labels"):
        control("shuffled")


def test_a_damaged_file_is_named_and_left_alone(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in MNIST.SHA256:
        (folder / name).write_bytes(b"cut short")
    with pytest.raises(UserError, match="train-images-idx3-ubyte with 9 bytes") as error:
        MNIST("mnist").files(str(tmp_path))
    assert MNIST.SHA256["train-images-idx3-ubyte"] in str(error.value)
    assert (folder / "train-images-idx3-ubyte").read_bytes() == b"cut short"


def _start(dataset, root):
    """Begin as torchvision does, without reading the files."""
    dataset.root = root
    dataset.download()


def test_a_damaged_file_is_not_overwritten_by_a_download(tmp_path, monkeypatch):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"foreign")

    def download(self):
        for name in MNIST.SHA256:
            path = tmp_path.__class__(self.raw_folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"new")

    monkeypatch.setattr(MNIST.DATASET, "download", download)
    monkeypatch.setattr(MNIST.DATASET, "__init__", lambda self, root, download: _start(self, root))
    with pytest.raises(UserError, match="SHA-256"):
        MNIST("mnist").files(str(tmp_path))
    assert (folder / "t10k-labels-idx1-ubyte").read_bytes() == b"foreign"


def test_a_missing_root_without_a_network_says_how_to_mend_it(tmp_path, monkeypatch):
    def no_network(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST.DATASET, "download", no_network)
    with pytest.raises(UserError, match="RANKBENCH_DATA"):
        MNIST("mnist").files(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_the_root_is_the_argument_then_the_environment_then_data(monkeypatch):
    monkeypatch.setenv("RANKBENCH_DATA", "from_environment")
    assert str(data_root("given")) == "given"
    assert str(data_root(None)) == "from_environment"
    monkeypatch.delenv("RANKBENCH_DATA")
    assert str(data_root(None)) == "data"


@pytest.mark.real_data
@pytest.mark.parametrize("data", [MNIST("mnist"), FashionMNIST("fashion_mnist")])
def test_the_real_files_are_the_published_ones(data):
    assert len(data.files(None, download=False)) == 4
    test = data.split(None, "test")
    assert test.inputs.shape == (10_000, 784)
    assert test.inputs.unique().tolist() == [0, 1]
    assert data.read(None, "train").labels.bincount().sum() == 60_000
