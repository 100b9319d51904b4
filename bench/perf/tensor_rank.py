"""The cost of a training step of `tensor_rank`, against the published formulation.

The setting is the published one: batches of 5,000 of 60,000 binary images of 784 pixels, in
float32. A step is data movement, forward, backward and Adam. The images are random, as the cost
does not depend on them.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.config import Cell, compose, plain, scientific, typed, with_values
from bench.kernels.cp import cp_components
from bench.kernels.indicators import IndicatorBatch, indicator_matrix
from bench.learners.base import EpochsConfig
from bench.learners.one_versus_all import OneVersusAll
from bench.perf.timing import medians, ratio
from bench.seeding import generator
from bench.status import Status
from bench.tracking.place import Place
from bench.tracking.tracker import Tracker
from bench.tracking.wandb_runs import TrackingConfig
from data_prep.one_versus_all import Part

SAMPLES, BATCH, PIXELS = 60_000, 5_000, 784
RANKS, CLASSES = range(1, 16), range(10)
SOLO_RANKS = (1, 5, 10, 15)
FIGURE_STEPS = 12 * 10_000  # the published number of steps of each of the figure's fits
FIGURE_STACKS = 6  # data sets x variants, each of 150 predictors
RECORD_POINTS = 25


def cells(ranks: range | list[int], classes: range | list[int]) -> list[Cell]:
    """Return the cells of a grid of ranks and classes on MNIST."""
    base = scientific(plain(compose(["data=mnist", "benchmark=tensor_rank"])))
    return [
        Cell.of(with_values(base, {"model.rank": rank, "data.target_class": target}))
        for rank in ranks
        for target in classes
    ]


def random_images() -> Tensor:
    """Return random binary images, shape (samples, pixels), uint8."""
    draw = generator(0, "perf images")
    return torch.randint(2, (SAMPLES, PIXELS), generator=draw, dtype=torch.uint8)


def learner_of(chosen: list[Cell], images: Tensor) -> OneVersusAll:
    """Return a learner of cells whose data are random images with random labels."""
    config = typed(chosen[0].config["learner"], "learner")
    learner, _ = config.build(chosen, EpochsConfig(), None)
    labels = torch.randint(10, (1, SAMPLES), generator=generator(0, "perf labels"))
    classes = [cell.config["data"]["target_class"] for cell in chosen]
    draws = torch.zeros(len(chosen), dtype=torch.int64)
    targets = torch.tensor(classes, dtype=torch.uint8)[:, None]
    part = Part(indicator_matrix(images, 2), labels.to(torch.uint8), draws, targets)
    learner.parts = {"train": part}
    return learner


def our_step(chosen: list[Cell], images: Tensor) -> Callable[[], object]:
    """Return a function that takes one training step of all cells."""
    learner = learner_of(chosen, images)
    optimizer = learner.configure_optimizers()
    batches = _batches()
    return lambda: learner.train_step(next(batches), optimizer)


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
    draw = generator(0, "perf batches")
    while True:
        yield from torch.randperm(SAMPLES, generator=draw).split(BATCH)


def measure(rounds: int) -> list[tuple[str, str]]:
    """Return the table's rows: what was measured, and the number with its unit."""
    images = random_images()
    stack = cells(RANKS, CLASSES)
    components = sum(cell.config["model"]["rank"] for cell in stack)
    left, right = torch.randn(components, PIXELS), torch.randn(PIXELS, BATCH)
    cases: dict[str, Callable[[], object]] = {"product": lambda: left @ right}
    cases |= {f"published {rank}": published_step(rank, images) for rank in RANKS}
    cases |= {f"solo {rank}": our_step(cells([rank], [0]), images) for rank in SOLO_RANKS}
    times = medians({**cases, "stacked": our_step(stack, images)}, rounds)
    work = 2 * components * PIXELS * BATCH  # of a product
    peak, rate = work / times["product"], 2 * work / times["stacked"]  # one forward, one backward
    published = sum(times[f"published {rank}"] for rank in RANKS) * len(CLASSES)
    hours = FIGURE_STEPS * FIGURE_STACKS / 3600
    rows = [("float32 matrix product of this machine", f"{peak / 1e9:.0f} GFLOP/s")]
    for rank in SOLO_RANKS:
        pair = ratio(times[f"published {rank}"], times[f"solo {rank}"])
        rows.append((f"one predictor of rank {rank}: published / ours", pair))
    name = f"{len(stack)} predictors, {components:,} components: sum of published / ours stacked"
    rows.append((name, ratio(published, times["stacked"])))
    name = "arithmetic rate of the stacked step, two dense products counted"
    rows.append((name, f"{rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of the matrix product's"))
    name = "the published figure, 900 fits of 10,000 epochs, at this speed"
    text = f"{times['stacked'] * hours:.1f} hours ({published * hours:,.0f} published)"
    rows.append((name, text))
    return [*rows, *accuracy(images), records_cost(stack)]


def accuracy(images: Tensor, steps: int = 500) -> list[tuple[str, str]]:
    """Compare float32 values and gradients with float64, at the start and after training."""
    chosen = cells([15], [0])
    learner = learner_of(chosen, images)
    optimizer = learner.configure_optimizers()
    batches = _batches()
    rows = [("largest relative error of values, gradients at the start", _errors(learner))]
    for _ in range(steps):
        learner.train_step(next(batches), optimizer)
    return [*rows, (f"the same after {steps} steps", _errors(learner))]


def _errors(learner: OneVersusAll) -> str:
    """Return the largest error over components, relative to the norm of the exact result."""
    (block,) = learner.stack
    inputs = IndicatorBatch(learner.parts["train"].inputs[:BATCH], 2)
    weights = torch.randn(len(block.factors), BATCH, generator=generator(0, "perf weights"))

    def evaluate(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        factors = block.factors.detach().to(dtype).requires_grad_()
        values, _ = cp_components(factors, inputs)
        (gradient,) = torch.autograd.grad((values * weights.to(dtype)).sum(), factors)
        return values.detach().double(), gradient.double().flatten(1)

    pairs = zip(evaluate(torch.float32), evaluate(torch.float64), strict=True)
    errors = [((ours - exact).norm(dim=1) / exact.norm(dim=1)).max() for ours, exact in pairs]
    return ", ".join(f"{error:.1e}" for error in errors)


def records_cost(stack: list[Cell]) -> tuple[str, str]:
    """Time all W&B runs and records of a stack, with curves of 25 points."""
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), "tensor_rank", TrackingConfig(), "offline")
        start = time.perf_counter()
        with Tracker(stack, place) as tracker:
            for i in range(len(stack)):
                for epoch in range(RECORD_POINTS):
                    tracker.log(i, {"epoch": epoch, "train_error": 0.1, "test_error": 0.1})
                weights = {"factors": torch.ones(PIXELS, 2, stack[i].config["model"]["rank"])}
                tracker.finish(i, Status.MAX_STEPS, {"train_error": 0.1}, weights)
        elapsed = time.perf_counter() - start
    return f"W&B runs and records of {len(stack)} predictors", f"{elapsed:.1f} s"
