"""Quantization, the data sets and their randomized controls."""

import sys
from fractions import Fraction
from importlib.metadata import EntryPoint, EntryPoints
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.core.settings import settings, validate
from data_prep.controls import control
from data_prep.digits import Digits
from data_prep.images import ImageData, RawImages, Split, data_root, quantize
from data_prep.torchvision_images import EMNIST, KMNIST, MNIST, FashionMNIST


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
    data = Digits()
    parts = {name: data.split(None, name) for name in ("train", "test")}
    assert parts["train"].inputs.shape == (1437, 64)
    assert parts["test"].inputs.shape == (360, 64)
    shares = [part.labels.bincount(minlength=10) / len(part.labels) for part in parts.values()]
    assert (shares[0] - shares[1]).abs().max() < 0.005
    assert torch.equal(parts["train"].inputs, data.split(None, "train").inputs)


def test_there_are_the_published_variants():
    with pytest.raises(UserError, match=r"expected one of original, random_images, random_labels$"):
        control("nothing")


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
        ({"levels": 1}, "greater than or equal to 2"),
        ({"levels": 18}, "from 2 to 17"),
        ({"target_class": 10}, "0 to 9"),
        ({"target_class": -1}, "greater than or equal to 0"),
        ({"batch_size": 1438}, "1 to 1437"),
        ({"batch_size": 0}, "greater than or equal to 1"),
        ({"fraction": 1.5}, "less than or equal to 1"),
        ({"fraction": float("nan")}, "data.fraction"),
        ({"brightness": 2}, "one of levels"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        validate(Digits, values, "data")


@settings
class Stripes(ImageData):
    """Somebody else's data set: the least that one needs."""

    name: ClassVar[str] = "stripes"
    image_shape: ClassVar[tuple[int, int]] = (2, 3)
    counts: ClassVar[dict[str, int]] = {"train": 6, "test": 4}
    classes: ClassVar[int] = 2

    batch_size: int = 3

    def read(self, root, split):
        """Return rows of black, gray and white."""
        images = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(self.counts[split], 2, 3)
        return RawImages(images, torch.arange(self.counts[split]) % 2)


def test_a_data_set_is_one_class():
    split_ = Stripes(levels=3).split(None, "test")
    assert split_.inputs.tolist() == [[0, 1, 2, 0, 1, 2]] * 4
    assert split_.labels.tolist() == [0, 1, 0, 1]
    assert Stripes().pixels == 6


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("counts", {"train": 6, "test": 5}, r"shape \(4, 2, 3\)"),
        ("image_shape", (3, 2), r"integers of shape \(4, 3, 2\)"),
        ("classes", 3, None),
        ("brightest", 254, "from 0 to 255: expected from 0 to 254"),
    ],
)
def test_what_is_read_must_be_what_the_data_set_says(attribute, value, message, monkeypatch):
    read = Stripes.read
    monkeypatch.setattr(Stripes, "read", lambda self, root, split: read(Stripes(), root, "train"))
    raw = Stripes().read(None, "test")
    monkeypatch.setattr(
        Stripes, "read", lambda self, root, split: RawImages(raw.images[:4], raw.labels[:4])
    )
    monkeypatch.setattr(Stripes, attribute, value)
    if message is None:
        Stripes().split(None, "test")
        return
    with pytest.raises(UserError, match=message) as caught:
        Stripes().split(None, "test")
    assert "\n" not in str(caught.value)


def test_labels_out_of_range_and_a_data_set_without_a_description_are_refused(monkeypatch):
    def read(self, root, split):
        return RawImages(torch.zeros(4, 2, 3, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]))

    monkeypatch.setattr(Stripes, "read", read)
    with pytest.raises(UserError, match="the test labels of stripes from 0 to 2"):
        Stripes().split(None, "test")
    monkeypatch.delattr(Stripes, "counts")
    with pytest.raises(UserError, match="without counts"):
        validate(Stripes, {}, "data")


CONTROL = """
CHANGES_IMAGES = True


def randomize(split, fraction, seed):
    return split.inputs.flip(1), split.labels
"""


def test_a_control_is_found_in_a_folder_on_the_path(tmp_path, monkeypatch):
    (tmp_path / "controls").mkdir()
    (tmp_path / "controls" / "mirrored.py").write_text(CONTROL)
    (tmp_path / "controls" / "empty.py").write_text("")
    (tmp_path / "controls" / "brighter.py").write_text(CONTROL.replace("flip(1)", "add(9)"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="one of brighter, empty, mirrored, original, random_image"):
        control("nothing")
    data = Digits()
    original = data.split(None, "test")
    mirrored = data.randomized(original, "mirrored", 0)
    assert torch.equal(mirrored.inputs, original.inputs.flip(1))
    with pytest.raises(UserError, match="a module with CHANGES_IMAGES"):
        control("empty")
    with pytest.raises(UserError, match="the images of variant=brighter of digits"):
        data.randomized(original, "brighter", 0)


def test_a_control_is_found_by_an_entry_point(monkeypatch):
    point = EntryPoint("plain", "data_prep.controls.original", "rankbench.controls")
    found = EntryPoints([point]).select
    monkeypatch.setattr("data_prep.controls.entry_points", found)
    monkeypatch.setattr("sys.path", [*sys.path, "nowhere"])  # so that it is looked for anew
    assert control("plain").CHANGES_IMAGES is False


def test_an_unknown_variant_is_refused():
    with pytest.raises(UserError, match="random_images, random_labels"):
        control("shuffled")


def test_a_damaged_file_is_named_and_left_alone(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name in MNIST.sha256:
        (folder / name).write_bytes(b"cut short")
    with pytest.raises(UserError, match="train-images-idx3-ubyte with 9 bytes") as error:
        MNIST().files(str(tmp_path))
    assert MNIST.sha256["train-images-idx3-ubyte"] in str(error.value)
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
        for name in MNIST.sha256:
            path = tmp_path.__class__(self.raw_folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"new")

    monkeypatch.setattr(MNIST.dataset, "download", download)
    monkeypatch.setattr(MNIST.dataset, "__init__", lambda self, root, download: _start(self, root))
    with pytest.raises(UserError, match="SHA-256"):
        MNIST().files(str(tmp_path))
    assert (folder / "t10k-labels-idx1-ubyte").read_bytes() == b"foreign"


def test_a_missing_root_without_a_network_says_how_to_mend_it(tmp_path, monkeypatch):
    def no_network(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST.dataset, "download", no_network)
    with pytest.raises(UserError, match="RANKBENCH_DATA"):
        MNIST().files(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_the_root_is_the_argument_then_the_environment_then_data(monkeypatch):
    monkeypatch.setenv("RANKBENCH_DATA", "from_environment")
    assert str(data_root("given")) == "given"
    assert str(data_root(None)) == "from_environment"
    monkeypatch.delenv("RANKBENCH_DATA")
    assert str(data_root(None)) == "data"


@pytest.mark.real_data
@pytest.mark.parametrize("data", [MNIST(), FashionMNIST()])
def test_the_real_files_are_the_published_ones(data):
    assert len(data.files(None, download=False)) == 4
    test = data.split(None, "test")
    assert test.inputs.shape == (10_000, 784)
    assert test.inputs.unique().tolist() == [0, 1]
    assert data.read(None, "train").labels.bincount().sum() == 60_000


def _idx(values):
    """Return uint8 values in the IDX format."""
    header = bytes([0, 0, 8, values.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in values.shape) + values.numpy().tobytes()


@pytest.mark.parametrize("kind", [KMNIST, EMNIST])
def test_torchvisions_further_sets_are_read_from_its_files(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(kind, "counts", {"train": 3, "test": 3})
    folder = tmp_path / kind.dataset.__name__ / "raw"
    folder.mkdir(parents=True)
    images = torch.arange(3 * 28 * 28).reshape(3, 28, 28).to(torch.uint8)
    for name in kind.sha256:
        values = torch.tensor([2, 0, 1], dtype=torch.uint8) if "labels" in name else images
        shift = 1 if "test" in name or "t10k" in name else 0
        (folder / name).write_bytes(_idx(values + shift if "images" in name else values))
    data = kind(batch_size=2)
    upright = images.mT if kind is EMNIST else images
    for name, train in (("train", True), ("test", False)):
        found = data.read(str(tmp_path), name)
        theirs = kind.dataset(tmp_path, train=train, **kind.options)
        assert torch.equal(found.images, theirs.data.mT if kind is EMNIST else theirs.data)
        assert torch.equal(found.images, upright + (0 if train else 1))
        assert torch.equal(found.labels, theirs.targets)
