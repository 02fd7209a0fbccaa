"""How fast a training step is, against the usual tutorial's loop; the loop under Ray and on more workers.

DCGAN, 64x64x3, width 64, batch 64. The reference is written as most tutorials write it: float32, contiguous,
Sigmoid and BCELoss, plain Adam, and the generator's backward pass computes the discriminator's gradients too.
Both take turns in one process with all cores; rates are medians over turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from gan_dist.bench.record import cores
from gan_dist.config import RunConfig, load_config
from gan_dist.data.loader import Batch
from gan_dist.release import ImageShape
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.state import new_state
from gan_dist.training.step import Step

BATCH, RESOLUTION, WIDTH, LATENT = 64, 64, 64, 100
WARM_UP, STEPS, TURNS = 3, 12, 5
WARM_UP_KIMG, LOOP_KIMG = 0.64, 3.84


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the figures: rates in images a second, and their ratios."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(cores())
    steps, turns = (2, 1) if quick else (STEPS, TURNS)
    reference, ours = _reference(device), _ours(device)
    rates: dict[str, list[float]] = {"reference": [], "ours": []}
    for _ in range(turns):
        rates["reference"].append(_rate(reference, steps, device))
        rates["ours"].append(_rate(ours, steps, device))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "ratio": medians["ours"] / medians["reference"],
        "images_per_second": medians["ours"],
        "reference_images_per_second": medians["reference"],
        **_loops(quick=quick),
        "turns": rates,
        "device": str(device),
    }


def _rate(step: Callable[[], None], steps: int, device: torch.device) -> float:
    for _ in range(WARM_UP):
        step()
    _wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return steps * BATCH / (time.perf_counter() - began)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _pixels() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, 3, RESOLUTION, RESOLUTION)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _ours(device: torch.device) -> Callable[[], None]:
    config = load_config("shapes", ["name=bench"])
    state = new_state(config, ImageShape(RESOLUTION, 3), device)
    step = Step(config, state, LocalContext("unused", device=device))
    batch = Batch(_pixels().to(device), None)

    def one() -> None:
        step.share(step.discriminator_phase(batch) | step.generator_phase(batch), stop=False)
        step.update_average()

    return one


def _reference(device: torch.device) -> Callable[[], None]:
    widths = [WIDTH * 8, WIDTH * 4, WIDTH * 2, WIDTH]
    up: list[nn.Module] = [nn.ConvTranspose2d(LATENT, widths[0], 4, 1, 0, bias=False)]
    down: list[nn.Module] = [nn.Conv2d(3, WIDTH, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    for wide, narrow in pairwise(widths):
        up += [nn.BatchNorm2d(wide), nn.ReLU(True), nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False)]
    up += [nn.BatchNorm2d(WIDTH), nn.ReLU(True), nn.ConvTranspose2d(WIDTH, 3, 4, 2, 1, bias=False), nn.Tanh()]
    for narrow, wide in pairwise(reversed(widths)):
        down += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2, True)]
    down += [nn.Conv2d(widths[0], 1, 4, 1, 0, bias=False), nn.Sigmoid()]
    generator, discriminator = nn.Sequential(*up).to(device), nn.Sequential(*down).to(device)
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        for network in (generator, discriminator)
    ]
    criterion = nn.BCELoss()
    reals = (_pixels().to(device).float() / 127.5) - 1

    def one() -> None:
        ones, zeros = torch.ones(BATCH, device=device), torch.zeros(BATCH, device=device)
        discriminator.zero_grad()
        criterion(discriminator(reals).view(-1), ones).backward()
        fakes = generator(torch.randn(BATCH, LATENT, 1, 1, device=device))
        criterion(discriminator(fakes.detach()).view(-1), zeros).backward()
        optimizers[1].step()
        generator.zero_grad()
        criterion(discriminator(fakes).view(-1), ones).backward()
        optimizers[0].step()

    return one


# The whole loop


def _loops(*, quick: bool) -> dict[str, float]:
    """Return what Ray costs, and what a second worker brings, each worker having one core."""
    from gan_dist.cluster.bench_step import rate_under_ray

    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        configs = {
            (where, workers): _loop_config(Path(folder, where), workers, quick=quick)
            for where, workers in (("bare", 1), ("bare", 2), ("ray", 2))
        }
        one = _bare(configs["bare", 1])
        two = _bare(configs["bare", 2])
        under_ray = rate_under_ray(configs["ray", 2])
    return {
        "ray_ratio": under_ray / two,
        "scaling": two / (2 * one),
        "loop_images_per_second": under_ray,
        "bare_images_per_second": two,
        "one_worker_images_per_second": one,
    }


def _loop_config(storage: Path, workers: int, *, quick: bool) -> RunConfig:
    warm, length = (0.064, 0.128) if quick else (WARM_UP_KIMG, LOOP_KIMG)
    return load_config(
        "shapes",
        [
            *(f"name=loop{workers}", f"storage={storage}", f"scale.workers={workers}"),
            *("data.path=builtin://shapes?count=2048&resolution=64", "data.cache=memory"),
            *(f"train.kimg={warm + length}", f"eval.every_kimg={warm}", "eval.samples=64"),
        ],
    )


def _bare(config: RunConfig) -> float:
    """Return the images a second of the loop in plain processes of one thread that have met by gloo."""
    with TemporaryDirectory(prefix="gan-dist-gloo-") as meeting:
        spawn(_worker, (config, str(Path(meeting, "meeting"))), nprocs=config.scale.workers)
    return steady_rate(config)


def _worker(rank: int, config: RunConfig, meeting: str) -> None:
    torch.set_num_threads(1)
    workers = config.scale.workers
    if workers > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers
        )
    train(config, LocalContext(config.run_uri))
    if workers > 1:
        torch.distributed.destroy_process_group()


def steady_rate(config: RunConfig) -> float:
    """Return a finished run's images a second after its first evaluation, evaluations left out."""
    from gan_dist.telemetry import read_records

    records = read_records(config.run_uri)
    spent = [float(str(r["images"])) / float(str(r["images_per_second"])) for r in (records[0], records[-1])]
    images = [int(str(record["images"])) for record in (records[0], records[-1])]
    return (images[1] - images[0]) / (spent[1] - spent[0])
