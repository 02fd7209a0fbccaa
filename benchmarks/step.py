"""How fast a training step is, against the usual tutorial's loop; the loop under Ray and on more workers.

DCGAN, 64x64x3, width 64, batch 64. The reference is written as most tutorials write it: float32, contiguous,
Sigmoid and BCELoss, plain Adam, and the generator's backward pass computes the discriminator's gradients too.
Both take turns with all cores; rates are medians over turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from gan_dist.config import RunConfig, load_config
from gan_dist.core.host import cores
from gan_dist.data.batches.loader import Batch
from gan_dist.models.generator import ImageShape
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.precision import tune_process
from gan_dist.training.state import new_state
from gan_dist.training.step import Step

BATCH, RESOLUTION, WIDTH, LATENT = 64, 64, 64, 100
WARM_UP, STEPS, TURNS = 3, 12, 5
WARM_UP_KIMG, LOOP_KIMG = 0.64, 3.84


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the figures: rates in images a second, and their ratios."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps, turns = (2, 1) if quick else (STEPS, TURNS)
    rates: dict[str, list[float]] = {"reference": [], "ours": []}
    # A process each: what ours asks of the C allocator must not speed up the reference.
    with _Runner("reference", steps, device) as reference, _Runner("ours", steps, device) as ours:
        for _ in range(turns):
            rates["reference"].append(reference.rate())
            rates["ours"].append(ours.rate())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "ratio": medians["ours"] / medians["reference"],
        "images_per_second": medians["ours"],
        "reference_images_per_second": medians["reference"],
        **_loops(quick=quick),
        **_small(quick=quick),
        "turns": rates,
        "device": str(device),
    }


class _Runner:
    """A process with one of the two loops, which runs when it is asked to."""

    def __init__(self, name: str, steps: int, device: torch.device) -> None:
        context = get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, name, steps, device), daemon=True)

    def __enter__(self) -> _Runner:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.send(False)
        self._process.join()

    def rate(self) -> float:
        """Run a turn; return its images a second."""
        self._ours.send(True)
        return float(self._ours.recv())


def _serve(pipe: Connection, name: str, steps: int, device: torch.device) -> None:
    torch.set_num_threads(cores())
    if name == "ours":
        tune_process(device)  # as `train` does
    step = _ours(device) if name == "ours" else _reference(device)
    while pipe.recv():
        pipe.send(_rate(step, steps, device))


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
    state = new_state(
        config.model,
        config.optim,
        ImageShape(RESOLUTION, 3),
        device,
        seed=config.seed,
        channels_last=config.train.channels_last,
    )
    step = Step(config, state, LocalContext("unused", device=device))
    batch = Batch(_pixels().to(device), None)

    def one() -> None:
        step.average_over_ranks(step.discriminator_phase(batch) | step.generator_phase(batch), stop=False)
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


def _loops(*, quick: bool) -> dict[str, object]:
    """Return what Ray costs, and what a second worker brings, each worker having one core.

    `scaling` is with the same global batch, `scaling_weak` with the same batch for each worker. With one
    worker Ray's own processes have the other core to themselves.
    """
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:

        def rate(of: Callable[[RunConfig], float], name: str, workers: int, batch: int = BATCH) -> float:
            return of(_loop_config(Path(folder, name), workers, batch, quick=quick))

        one, two = rate(_bare, "one", 1), rate(_bare, "two", 2)
        one_under_ray, two_under_ray = rate(_under_ray, "ray1", 1), rate(_under_ray, "ray2", 2)
        twice_the_batch = rate(_bare, "weak", 2, 2 * BATCH)
    return {
        "ray_ratio": two_under_ray / two,
        "ray_ratio_one_worker": one_under_ray / one,
        "scaling": two / (2 * one),
        "scaling_weak": twice_the_batch / (2 * one),
        "loop_images_per_second": {
            "one_worker": one,
            "two_workers": two,
            "two_workers_twice_the_batch": twice_the_batch,
            "one_worker_ray": one_under_ray,
            "two_workers_ray": two_under_ray,
        },
    }


def _small(*, quick: bool) -> dict[str, object]:
    """Return what Ray costs two workers whose steps are short: the preset `digits`, streamed by Ray Data.

    The plain processes read the same windows by threads. Both take turns; rates are medians over turns.
    """
    rates: dict[str, list[float]] = {"bare": [], "ray": []}
    kimg, turns = (4, 1) if quick else (30, 3)
    settings = [f"train.kimg={kimg}", f"eval.every_kimg={kimg}", "eval.target=null", "log.every_kimg=1"]
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        for turn in range(turns):
            for name, of in (("bare", _bare), ("ray", _under_ray)):
                config = load_config("digits", [f"name={name}{turn}", f"storage={folder}", *settings])
                rates[name].append(of(config))
    bare, ray = (statistics.median(values) for values in rates.values())
    return {"digits_ray_ratio": ray / bare, "digits_images_per_second": rates}


def _loop_config(storage: Path, workers: int, batch: int, *, quick: bool) -> RunConfig:
    warm, length = (0.064, 0.128) if quick else (WARM_UP_KIMG, LOOP_KIMG)
    return load_config(
        "shapes",
        [
            *("name=loop", f"storage={storage}", f"scale.workers={workers}", "scale.cpus_per_worker=1"),
            *("data.path=builtin://shapes?count=2048&resolution=64", "data.cache=memory"),
            f"train.batch_size={batch}",
            *(f"train.kimg={warm + length}", f"eval.every_kimg={warm}", "eval.samples=64"),
            f"log.every_kimg={warm}",
        ],
    )


def _bare(config: RunConfig) -> float:
    """Return the images a second of the loop in plain processes of one thread that have met by gloo."""
    with TemporaryDirectory(prefix="gan-dist-gloo-") as meeting:
        arguments = config, str(Path(meeting, "meeting"))
        # The fork server's processes end at once. DDP keeps gloo's threads to the end, and one of them that
        # lets go of a tensor while an interpreter is taken down ends the process by a signal.
        start_processes(_worker, arguments, nprocs=config.scale.workers, start_method="forkserver")
    return _steady_rate(config)


def _under_ray(config: RunConfig) -> float:
    """Return the images a second of the loop under TorchTrainer."""
    from gan_dist.cluster.train import driver

    driver.run(config, lambda _: None)
    return _steady_rate(config)


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


def _steady_rate(config: RunConfig) -> float:
    """Return a finished run's images a second after its first record, evaluations left out."""
    from gan_dist.artifacts.records import read_records

    first, *others = read_records(config.run_uri)
    images = [int(record["images"]) for record in (first, *others)]
    parts = [b - a for a, b in pairwise(images)]
    seconds = sum(n / record["images_per_second"] for n, record in zip(parts, others, strict=True))
    return float((images[-1] - images[0]) / seconds)
