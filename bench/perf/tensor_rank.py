"""The cost of a training step of `tensor_rank`, against the published formulation.

The setting is the published one: batches of 5,000 of 60,000 binary images of 784 pixels, in
float32, on one thread. A step is the lists of the batch, forward, backward and Adam. The cost
depends on the images, which compress well or badly, and could depend on the factors: a step early
in training has them all near 1, one late in training has some that are negative or small.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.core.cell import Cell
from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.kernels.indicators import IndicatorBatch, indicator_matrix
from bench.learners.compiled_steps import CompiledSteps
from bench.learners.cp_stack import CPStack
from bench.perf.timing import medians, ratio
from bench.plan import plan_benchmark
from data_prep.one_versus_all import Part
from data_prep.torchvision_images import MNIST, FashionMNIST

SAMPLES, BATCH, PIXELS = 60_000, 5_000, 784
RANKS, CLASSES = range(1, 16), range(10)
SOLO_RANKS = (1, 5, 10, 15)
RANDOM = "random images"
FIGURE_STEPS = 12 * 10_000  # the published number of steps of each of the figure's fits
FIGURE_PROCESSES = 2
FIGURE_STACKS = {"mnist": 2, "fashion_mnist": 2, RANDOM: 2}  # random labels are on the originals
LATE_SPREAD, LATE_FEW = 0.05, 4  # of a component's factors so many are negative, so many small


def cells(ranks: Sequence[int], classes: Sequence[int]) -> list[Cell]:
    """Return the cells of a grid of ranks and classes on MNIST."""
    axes = [f"ranks={[*ranks]}", f"classes={[*classes]}", "seeds=[0]", "variants=[original]"]
    return [*plan_benchmark("tensor_rank", ["model=cp", "data=mnist", *axes]).cells]


def random_images() -> Tensor:
    """Return random binary images, shape (samples, pixels), uint8."""
    rng = generator(0, "perf images")
    return torch.randint(2, (SAMPLES, PIXELS), generator=rng, dtype=torch.uint8)


def all_images() -> dict[str, Tensor]:
    """Return the images to measure on, by name; without the data sets whose files are missing."""
    found = {}
    for data in (MNIST(), FashionMNIST()):
        try:
            data.files(None, download=False)
        except UserError:
            continue
        found[data.name] = data.split(None, "train").inputs
    return {**found, RANDOM: random_images()}


def learner_of(chosen: list[Cell], images: Tensor, *, late: bool = False) -> CPStack:
    """Return a learner of cells whose labels are random.

    Parameters
    ----------
    late : bool
        Whether its factors are spread like those of predictors that have long trained.
    """
    learner = CPStack(chosen)
    labels = torch.randint(10, (1, SAMPLES), generator=generator(0, "perf labels"))
    classes = [cell.data.target_class for cell in chosen]
    labelings = torch.zeros(len(chosen), dtype=torch.int64)
    targets = torch.tensor(classes, dtype=torch.uint8)[:, None]
    learner.read({"train": Part(images, labels.to(torch.uint8), labelings, targets)})
    if late:
        block = learner.block
        block.fill(block.tiled, late_factors(block.components().shape))
    return learner


def late_factors(shape: torch.Size) -> Tensor:
    """Return factors around 1, of which a few in each component are negative and a few small."""
    rng = generator(0, "perf late")
    factors = 1 + LATE_SPREAD * torch.randn(shape, generator=rng)
    share = LATE_FEW / shape[1:].numel()
    negative = torch.rand(shape, generator=rng) < share
    small = torch.rand(shape, generator=rng) < share
    size = torch.rand(shape, generator=rng)
    return torch.where(small, 0.01 * size, torch.where(negative, -size, factors))


def our_step(chosen: list[Cell], images: Tensor, *, late: bool = False) -> Callable[[], object]:
    """Return a function that takes one training step of all cells."""
    learner = learner_of(chosen, images, late=late)
    batches = _batches()
    return lambda: learner.train_step(next(batches))


def dense_products(components: int) -> Callable[[], object]:
    """Return the two float32 products alone that a dense formulation needs."""
    table, images = torch.randn(components, PIXELS), torch.randn(PIXELS, BATCH)
    return lambda: (table @ images) @ images.T


def published_step(rank: int, images: Tensor) -> Callable[[], Tensor]:
    """Return a step of one predictor in the published formulation [TF, section 5].

    A 1 x 1 locally connected convolution of the one-hot pixels, a global product pooling, a sum.
    """
    start = 1 + 1e-3 * torch.randn(PIXELS, 2, rank, generator=generator(0, "perf start"))
    factors = nn.Parameter(start)
    optimizer = torch.optim.Adam([factors], lr=5e-4)
    labels = torch.randint(2, (SAMPLES,), generator=generator(0, "perf labels")) * 2.0
    batches = _batches()

    def step() -> Tensor:
        indices = next(batches)
        bright = images[indices].float()
        one_hot = torch.stack([1 - bright, bright], -1)  # six times faster than one_hot()
        local = torch.bmm(one_hot.transpose(0, 1), factors)  # (pixels, batch, rank)
        prediction = local.prod(0).sum(1)
        loss = (prediction - labels[indices]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _batches() -> Iterator[Tensor]:
    rng = generator(0, "perf batches")
    while True:
        yield from torch.randperm(SAMPLES, generator=rng).split(BATCH)


def measure(rounds: int) -> list[tuple[str, str]]:
    """Return the table's rows: what was measured on one thread, and the number with its unit."""
    images, threads = all_images(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        error = accuracy(images[RANDOM])
        return [*steps(images, rounds), ("largest relative error of values, gradients", error)]
    finally:
        torch.set_num_threads(threads)


def steps(images: Mapping[str, Tensor], rounds: int) -> list[tuple[str, str]]:
    """Return the rows on single steps, and on the whole figure that is made of them."""
    stack, first = cells(RANKS, CLASSES), next(iter(images.values()))
    components = sum(cell.model.rank for cell in stack)
    cases: dict[str, Callable[[], object]] = {"dense": dense_products(components)}
    cases |= {f"published {rank}": published_step(rank, first) for rank in RANKS}
    cases |= {f"solo {rank}": our_step(cells([rank], [0]), first) for rank in SOLO_RANKS}
    for name, some in images.items():
        cases[f"early, {name}"] = our_step(stack, some)
        cases[f"late, {name}"] = our_step(stack, some, late=True)
    times = medians(cases, rounds)
    published = sum(times[f"published {rank}"] for rank in RANKS) * len(CLASSES)
    work = 4 * components * PIXELS * BATCH
    text = f"{times['dense'] * 1e3:.0f} ms, {work / times['dense'] / 1e9:.0f} GFLOP/s"
    rows = [(f"two dense float32 products alone, {components:,} components", text)]
    for rank in SOLO_RANKS:
        pair = ratio(times[f"published {rank}"], times[f"solo {rank}"])
        rows.append((f"one predictor of rank {rank}: published / ours", pair))
    for name in images:
        for when in ("early", "late"):
            pair = ratio(times["dense"], times[f"{when}, {name}"])
            text = f"{len(stack)} predictors, {when} in training, {name}: dense products / step"
            rows.append((text, pair))
        pair = ratio(published, times[f"late, {name}"])
        rows.append((f"{len(stack)} predictors, {name}: sum of published / ours, late", pair))
    return [*rows, *figure_cost(times, published)]


def figure_cost(times: Mapping[str, float], published: float) -> list[tuple[str, str]]:
    """Return what the whole published figure costs, if all its data sets were measured."""
    if not all(f"late, {name}" in times for name in FIGURE_STACKS):
        return []
    once = sum(count * times[f"late, {name}"] for name, count in FIGURE_STACKS.items())
    hours, stacks = FIGURE_STEPS / FIGURE_PROCESSES / 3600, sum(FIGURE_STACKS.values())
    name = f"the published figure, 900 fits of 10,000 epochs, {FIGURE_PROCESSES} processes"
    return [(name, f"{once * hours:.1f} hours ({published * stacks * hours:,.0f} published)")]


def accuracy(images: Tensor) -> str:
    """Return the largest errors over components, relative to the norm of the exact result.

    For factors late in training, in float32 against float64.
    """
    learner = learner_of(cells([1], CLASSES), images, late=True)
    block, indices = learner.block, torch.arange(BATCH)
    targets = learner.targets("train", indices)
    assert isinstance(learner.steps, CompiledSteps)
    predictions, _ = learner.steps.predict(block, "train", slice(0, BATCH))
    gradient = learner.steps.gradient(block, indices, targets)
    factors = block.components().double().requires_grad_()
    inputs = IndicatorBatch(indicator_matrix(images[:BATCH], 2), 2)
    exact, _ = block(inputs, factors)
    (slope,) = torch.autograd.grad((exact - targets).square().mean(1).sum(), factors)
    pairs = ((predictions, exact.detach()), (gradient, slope))
    errors = [
        ((a.double() - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)) for a, b in pairs
    ]
    return ", ".join(f"{error.max():.1e}" for error in errors)
