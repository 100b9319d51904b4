import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.resnet import BasicBlock, ResNet

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.models.arithmetic_circuit import CircuitConfig
from bench.models.resnet import CompactResNetConfig
from bench.regularizers import InputGradientChange, Patch, PatchChoice, RandomPatch
from bench.regularizers.input_gradient_change import InputGradientChangeConfig, _alignment

FIRST, SECOND = Patch(2, 3, 8, 6), Patch(16, 20, 10, 9)


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def small_resnet(classes):
    torch.manual_seed(0)
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes)


def batch(classes, dtype=torch.float64):
    inputs = torch.randn(6, 3, 32, 32, generator=draw()).to(dtype)
    return inputs, torch.randint(max(classes, 2), (6,), generator=draw(1))


def published(network, inputs, outputs, targets):
    """The published form, line by line of the definition."""

    def gradient(of, at):
        if of.ndim == 2:
            of = of[torch.arange(len(of)), targets] if of.shape[1] > 1 else of[:, 0]
        rows = torch.autograd.grad(of.sum(), at, create_graph=True)[0][:, :, 2:10, 3:9].flatten(1)
        return rows / rows.norm(dim=1, keepdim=True)

    swapped = inputs.detach().clone()
    swapped[:, :, 16:26, 20:29] = torch.cat([inputs[1:], inputs[:1]]).detach()[:, :, 16:26, 20:29]
    before = gradient(outputs, inputs)
    after = gradient(network(swapped.requires_grad_()), swapped)
    return (before * after).sum(1).abs().mean()


def step(network, penalize, inputs, targets):
    """Return penalty and parameter gradients of a regularized step."""
    network = copy.deepcopy(network)
    inputs = inputs.clone().requires_grad_()
    if isinstance(penalize, InputGradientChange):
        outputs, penalty = penalize.evaluate(network, inputs, targets)
    else:
        outputs = network(inputs)
        penalty = penalize(network, inputs, outputs, targets)
    (outputs.square().mean() + 0.5 * penalty).backward()
    gradients = torch.cat([each.grad.flatten() for each in network.parameters()])
    return penalty.detach(), gradients, network.state_dict()


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("training", [True, False])
def test_the_published_form_exactly(classes, training):
    network = small_resnet(classes).double().train(training)
    inputs, targets = batch(classes)
    regularizer = InputGradientChange(FIRST, SECOND)
    expected = step(network, published, inputs, targets)
    got = step(network, regularizer, inputs, targets)
    assert got[0].item() == pytest.approx(expected[0].item(), abs=1e-12)
    assert relative(got[1], expected[1]) < 1e-9
    for name, value in expected[2].items():
        torch.testing.assert_close(got[2][name], value, msg=name)


def test_the_published_values_in_float32():
    network = small_resnet(2)
    inputs, targets = batch(2, torch.float32)
    expected, *_ = step(network, published, inputs, targets)
    got, *_ = step(network, InputGradientChange(FIRST, SECOND), inputs, targets)
    assert got.item() == pytest.approx(expected.item(), abs=1e-6)


def test_frozen_statistics_see_only_the_real_images():
    network = small_resnet(2).double()
    inputs, targets = batch(2)
    alone = copy.deepcopy(network)
    alone(inputs)
    frozen = InputGradientChange(FIRST, SECOND, freeze_statistics=True)
    penalty, gradients, state = step(network, frozen, inputs, targets)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(state[name], value, msg=name)
    updating = step(network, InputGradientChange(FIRST, SECOND), inputs, targets)
    assert penalty == updating[0]
    assert torch.equal(gradients, updating[1])
    assert all(m.track_running_stats for m in network.modules() if isinstance(m, nn.BatchNorm2d))


class Product(nn.Module):
    """g(x_A) h(x_rest): separable between the patch A and everything else."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8 * 6, 5, generator=draw()))

    def forward(self, images):
        near = (FIRST.of(images[:, 0]).flatten(1) @ self.weight).tanh().sum(1)
        return near * SECOND.of(images[:, 0]).mean((1, 2)).exp()


def test_a_separable_network_has_penalty_one_and_no_gradient():
    network, inputs = Product(), torch.rand(4, 1, 32, 32, generator=draw()).requires_grad_()
    regularizer = InputGradientChange(FIRST, SECOND)
    penalty = regularizer.evaluate(network, inputs, torch.zeros(4))[1]
    assert penalty.item() == pytest.approx(1, abs=1e-6)
    (gradient,) = torch.autograd.grad(penalty, network.weight)
    assert gradient.abs().max() < 1e-6


class Dead(nn.Module):
    """A network whose gradient vanishes for some samples."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(32 * 32, generator=draw()))

    def forward(self, images):
        return ((images[:, 0].flatten(1) * self.weight).sum(1) ** 3) * (images[:, 0, 0, 0] > 0)


def test_samples_without_a_gradient_count_zero_and_pull_at_nothing():
    network, inputs = Dead(), torch.randn(6, 1, 32, 32, generator=draw())
    inputs[::2, 0, 0, 0], inputs[1::2, 0, 0, 0] = -1, 1
    inputs.requires_grad_()
    regularizer = InputGradientChange(FIRST, SECOND)
    penalty = regularizer.evaluate(network, inputs, torch.zeros(6))[1]
    penalty.backward()
    assert penalty.item() == pytest.approx(0.5)
    assert network.weight.grad.isfinite().all()


def test_any_differentiable_network_will_do():
    circuit = CircuitConfig(width=3, features="affine").build((4, 4), 2, 1, 0)
    inputs = torch.rand(3, 1, 4, 4, generator=draw()).requires_grad_()
    regularizer = InputGradientChange(Patch(0, 0, 2, 2), Patch(2, 2, 2, 2))
    penalty = regularizer.evaluate(circuit, inputs, torch.zeros(3))[1]
    penalty.backward()
    assert 0 <= penalty.item() <= 1
    assert all(each.grad.isfinite().all() for each in circuit.parameters())


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "same"},
        {"groups": 3},
        {"dilation": 2},
        {"stride": (2, 1), "padding": (1, 0), "bias": False},
        {"stride": 4, "padding": 2, "dilation": 2},
    ],
)
def test_convolutions_of_all_kinds(options):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, **options),
        nn.BatchNorm2d(6, affine="groups" not in options),
        nn.Tanh(),
        nn.Flatten(),
        nn.LazyLinear(2),
    ).double()
    inputs, targets = batch(2)
    network(inputs)
    expected = step(network, published, inputs, targets)
    got = step(network, InputGradientChange(FIRST, SECOND), inputs, targets)
    assert relative(got[1], expected[1]) < 1e-9


def test_patches_are_those_of_the_seed_and_go_on_after_a_checkpoint():
    def patches(regularizer, count):
        return [regularizer._sample_patches(torch.zeros(2, 1, 32, 32)) for _ in range(count)]

    def fresh(seed):
        return InputGradientChange(RandomPatch(3), RandomPatch(4, distance=5), seed=seed)

    straight = patches(fresh(0), 6)
    assert straight == patches(fresh(0), 6)
    assert straight != patches(fresh(1), 6)
    first, resumed = fresh(0), fresh(0)
    assert patches(first, 2) == straight[:2]
    resumed.load_state_dict(first.state_dict())
    assert patches(resumed, 4) == straight[2:]


def pixels_between(a, b):
    vertical = max(a.top - b.bottom, b.top - a.bottom)
    return max(vertical, a.left - b.right, b.left - a.right)


@given(st.integers(1, 5), st.integers(0, 6), st.integers(0, 99), st.booleans())
def test_random_patches_keep_their_distance(size, distance, seed, adjacent):
    source = generator(seed, "test")
    first = RandomPatch(size).sample(24, 30, None, source)
    second = RandomPatch(size, distance, adjacent).sample(24, 30, first, source)
    assert second.bottom <= 24
    assert second.right <= 30
    assert not first.overlaps(second)
    between = pixels_between(first, second)
    assert between == distance if adjacent else between >= distance


def test_every_allowed_position_is_sampled():
    source, first = draw(), Patch(0, 0, 2, 2)
    places = {RandomPatch(2, distance=1).sample(5, 4, first, source) for _ in range(300)}
    assert places == {Patch(3, left, 2, 2) for left in range(3)}


def test_a_choice_never_repeats_the_first_patch():
    both = PatchChoice([FIRST, SECOND])
    source = draw()
    firsts = [both.sample(32, 32, None, source) for _ in range(40)]
    assert set(firsts) == {FIRST, SECOND}
    assert all(both.sample(32, 32, one, source) != one for one in firsts)


@pytest.mark.parametrize(
    ("first", "second", "samples", "message"),
    [
        (Patch(0, 0, 4, 4), Patch(30, 0, 4, 4), 4, "inside the image"),
        (Patch(0, 0, 4, 4), Patch(3, 3, 4, 4), 4, "overlap"),
        (FIRST, SECOND, 1, "batch of one"),
        (RandomPatch(40), SECOND, 4, "patch of size 40"),
        (Patch(-1, 0, 2, 2), SECOND, 4, "inside the image"),
        (Patch(0, 0, 0, 2), SECOND, 4, "inside the image"),
        (RandomPatch(0), SECOND, 4, "inside the image"),
        (Patch(0, 0, 20, 20), RandomPatch(4, distance=20), 4, "room"),
        (FIRST, PatchChoice([FIRST]), 4, "besides"),
    ],
)
def test_what_cannot_be_is_refused(first, second, samples, message):
    network = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 1))
    inputs = torch.rand(samples, 1, 32, 32).requires_grad_()
    with pytest.raises(UserError, match=message):
        InputGradientChange(first, second).evaluate(network, inputs, torch.zeros(samples))


class Recorded(nn.Module):
    """Keeps what it is evaluated at."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(64, generator=draw()))
        self.seen = []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return (images.flatten(1).cumsum(1).tanh() * self.weight).sum(1).square()


def test_patches_of_its_own_for_each_sample_are_the_published_form_sample_by_sample():
    inputs, targets = torch.rand(5, 1, 8, 8, generator=draw()).double(), torch.zeros(5)
    patches = RandomPatch(2), RandomPatch(3)
    network = Recorded().double()
    own = InputGradientChange(*patches, patches_per_sample=True, seed=3)
    got = own.evaluate(network, inputs, targets)[1]
    source, expected = generator(3, "patches", 0), []
    for i in range(5):
        first = patches[0].sample(8, 8, None, source)
        second = patches[1].sample(8, 8, first, source)
        pair = torch.stack([inputs[i], inputs[(i + 1) % 5]])
        swapped = inputs[i].clone()
        second.of(swapped).copy_(second.of(inputs[(i + 1) % 5]))
        gradients = []
        for image in (pair[0], swapped):
            at = image[None].requires_grad_()
            (gradient,) = torch.autograd.grad(network(at).sum(), at)
            gradients.append(first.of(gradient).flatten(1))
        expected.append(_alignment(*gradients))
    assert got.item() == pytest.approx(torch.cat(expected).mean().item(), rel=1e-9)


def test_a_patch_is_swapped_with_the_next_one_that_differs():
    images = torch.zeros(5, 1, 8, 8, dtype=torch.float64)
    images[:, 0, 0, 0] = torch.arange(5)  # outside the patch
    images[3, 0, 5, 5] = 1.0
    network, second = Recorded().double(), Patch(4, 4, 3, 3)
    regularizer = InputGradientChange(Patch(0, 0, 2, 2), second, swap_differing=True)
    regularizer.evaluate(network, images, torch.zeros(5))[1].backward()
    swapped = second.of(network.seen[-1][:, 0]).sum((1, 2))
    assert swapped.tolist() == [1, 1, 1, 0, 1]
    assert network.weight.grad.isfinite().all()


def test_samples_without_a_differing_patch_do_not_count():
    images = torch.rand(4, 1, 8, 8, generator=draw())
    images[:, :, 4:7, 4:7] = 0
    network, patches = Recorded(), (Patch(0, 0, 2, 2), Patch(4, 4, 3, 3))
    regularizer = InputGradientChange(*patches, swap_differing=True)
    assert regularizer.evaluate(network, images, torch.zeros(4))[1] == 0
    published = InputGradientChange(*patches)
    assert published.evaluate(network, images, torch.zeros(4))[1].item() == pytest.approx(1)


def both(**options):
    config = InputGradientChangeConfig(**options)
    regularizer = config.build((FIRST, SECOND), 0)
    return [regularizer._sample_patches(torch.zeros(2, 1, 32, 32))[0] for _ in range(40)]


def test_roles_are_drawn_where_the_published_form_is_asked_for():
    assert set(both()) == {(FIRST, SECOND)}
    assert set(both(random_roles=True)) == {(FIRST, SECOND), (SECOND, FIRST)}


def test_the_placebo_s_patches_touch():
    left, right = Patch(2, 3, 8, 3), Patch(2, 6, 8, 3)
    above, below = Patch(16, 20, 10, 4), Patch(16, 24, 10, 4)
    expected = {(left, right), (right, left), (above, below), (below, above)}
    assert set(both(local=True)) == expected
    anywhere = InputGradientChangeConfig(local=True).build((RandomPatch(2), RandomPatch(2)), 0)
    for _ in range(20):
        ((first, second),) = anywhere._sample_patches(torch.zeros(2, 1, 9, 9))
        assert pixels_between(first, second) == 0


def test_a_regularized_step_stays_in_the_order_of_its_images():
    """Operations on tensors of two orders take many times as long."""

    class Orders(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            maps = [a for a in args if isinstance(a, torch.Tensor) and a.ndim == 4]
            wide = [a for a in maps if a.shape[0] == 6 and a.shape[1] > 1 and a.shape[2] > 1]
            last = torch.channels_last
            if func in costly:
                mixed.extend(func for a in wide if not a.is_contiguous(memory_format=last))
            return func(*args, **(kwargs or {}))

    aten, mixed = torch.ops.aten, []
    costly = {aten.threshold_backward.default, aten.native_batch_norm_backward.default}
    network = CompactResNetConfig(widths=(8, 8), strides=(2, 1), channels=3)
    network = network.build((32, 32), 2, 1, 0).to(memory_format=torch.channels_last)
    inputs = batch(1, torch.float32)[0].contiguous(memory_format=torch.channels_last)
    regularizer = InputGradientChange(FIRST, SECOND)
    with Orders():
        outputs, penalty = regularizer.evaluate(network, inputs, None)
        (outputs.sum() + penalty).backward()
    assert len(mixed) <= 2  # what the pooling's gradient is spread over
