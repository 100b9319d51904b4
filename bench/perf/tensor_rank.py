"""The cost of a training step of `tensor_rank`, against the published formulation.

The setting is the published one: batches of 5,000 of 60,000 binary images of 784 pixels, in
float32, on one thread. A step is the lists of the batch, forward, backward and Adam. The cost
depends on the images, which compress well or badly, and could depend on the factors: a step early
in training has them all near 1, one late in training has some that are negative or small.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.learners.cp_stack import CPStack
from bench.models.cp import CPFactorization
from bench.perf.timing import medians, ratio, training_step
from bench.plan import plan_benchmark
from data_prep.one_versus_all import Part
from data_prep.torchvision_images import MNIST, FashionMNIST

SAMPLES, BATCH, PIXELS = 60_000, 5_000, 784
RANKS, CLASSES = range(1, 16), range(10)
SOLO_RANKS = (1, 5, 10, 15)
RANDOM = "random images"
FIGURE_STEPS = 12 * 10_000  # the published number of steps of each of the figure's fits
FIGURE_PROCESSES = 2
FIGURE_VARIANTS = 2  # stacks of each images: random labels are on the originals
LATE_SPREAD, LATE_FEW = 0.05, 4  # how many of a component's factors are negative, how many small


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


def learner_of(
    ranks: Sequence[int], classes: Sequence[int], images: Tensor, *, late: bool = False
) -> CPStack:
    """Return a learner of a grid of ranks and classes, whose labels are random.

    With `late`, its factors are spread like those of predictors that have long trained: around 1, a
    few in each component negative and a few small.
    """
    axes = [f"ranks={[*ranks]}", f"classes={[*classes]}", "seeds=[0]", "variants=[original]"]
    cells = [*plan_benchmark("tensor_rank", ["model=cp", "data=mnist", *axes]).cells]
    learner = CPStack(cells)
    labels = torch.randint(10, (1, SAMPLES), generator=generator(0, "perf labels"))
    labelings = torch.zeros(len(cells), dtype=torch.int64)
    targets = torch.tensor([[cell.data.target_class] for cell in cells], dtype=torch.uint8)
    learner.read({"train": Part(images, labels.to(torch.uint8), labelings, targets)})
    if late:
        rng, shape = generator(0, "perf late"), learner.block.components().shape
        factors = 1 + LATE_SPREAD * torch.randn(shape, generator=rng)
        negative, small = torch.rand(2, *shape, generator=rng) < LATE_FEW / shape[1:].numel()
        size = torch.rand(shape, generator=rng)
        factors = torch.where(small, 0.01 * size, torch.where(negative, -size, factors))
        learner.block.fill(learner.block.tiled, factors)
    return learner


def step_of(learner: CPStack) -> Callable[[], Tensor]:
    """Return a function that takes one training step of all predictors."""
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
    model = CPFactorization(PIXELS, 2, rank, generator=generator(0, "perf start"))
    labels = torch.randint(2, (SAMPLES,), generator=generator(0, "perf labels")) * 2.0
    batches = _batches()

    def loss() -> Tensor:
        indices = next(batches)
        bright = images[indices].float()
        one_hot = torch.stack([1 - bright, bright], -1)  # six times faster than one_hot()
        local = torch.bmm(one_hot.transpose(0, 1), model.factors)  # (pixels, batch, rank)
        return (local.prod(0).sum(1) - labels[indices]).square().mean()

    return training_step(torch.optim.Adam(model.parameters(), lr=5e-4), loss)


def _batches() -> Iterator[Tensor]:
    rng = generator(0, "perf batches")
    while True:
        yield from torch.randperm(SAMPLES, generator=rng).split(BATCH)


def measure(rounds: int) -> list[tuple[str, str]]:
    """Return the table's rows: what was measured on one thread, and the number with its unit."""
    images, threads = all_images(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = steps(images, rounds)
    finally:
        torch.set_num_threads(threads)
    missing = [data.name for data in (MNIST, FashionMNIST) if data.name not in images]
    return rows + [(f"steps on {name}", "not measured: its files are missing") for name in missing]


def steps(images: Mapping[str, Tensor], rounds: int) -> list[tuple[str, str]]:
    """Return the rows on single steps, and on the whole figure that is made of them."""
    first, components = next(iter(images.values())), sum(RANKS) * len(CLASSES)
    stack = f"{len(RANKS) * len(CLASSES)} predictors"
    cases: dict[str, Callable[[], object]] = {"dense": dense_products(components)}
    cases |= {f"published {rank}": published_step(rank, first) for rank in RANKS}
    pairs = []  # what a row says, and the cases that it compares
    for rank in SOLO_RANKS:
        cases[f"solo {rank}"] = step_of(learner_of([rank], [0], first))
        text = f"one predictor of rank {rank}: published / ours"
        pairs.append((text, f"published {rank}", f"solo {rank}"))
    for name, some in images.items():
        for when in ("early", "late"):
            learner = learner_of(RANKS, CLASSES, some, late=when == "late")
            cases[f"{when}, {name}"] = step_of(learner)
            text = f"{stack}, {when} in training, {name}: dense products / step"
            pairs.append((text, "dense", f"{when}, {name}"))
        text = f"{stack}, {name}: sum of published / ours, late"
        pairs.append((text, "published", f"late, {name}"))
    times = medians(cases, rounds)
    times["published"] = sum(times[f"published {rank}"] for rank in RANKS) * len(CLASSES)
    work = 4 * components * PIXELS * BATCH
    dense = f"{times['dense'] * 1e3:.0f} ms, {work / times['dense'] / 1e9:.0f} GFLOP/s"
    return [
        (f"two dense float32 products alone, {components:,} components", dense),
        *((text, ratio(times[slow], times[fast])) for text, slow, fast in pairs),
        *figure_cost(times),
    ]


def figure_cost(times: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return what the whole published figure costs, if all its data sets were measured."""
    stacks = [f"late, {name}" for name in ("mnist", "fashion_mnist", RANDOM)] * FIGURE_VARIANTS
    if not all(name in times for name in stacks):
        return []
    hours = FIGURE_STEPS / FIGURE_PROCESSES / 3600
    ours, published = sum(times[name] for name in stacks), times["published"] * len(stacks)
    name = f"the published figure, 900 fits of 10,000 epochs, {FIGURE_PROCESSES} processes"
    return [(name, f"{ours * hours:.1f} hours ({published * hours:,.0f} published)")]
