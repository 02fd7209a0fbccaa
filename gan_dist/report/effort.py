"""What a search has cost, and what stopping trials early has saved, with the arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from gan_dist.config import RunConfig
from gan_dist.report.blocks import kimg
from gan_dist.report.trials import PRUNED, Trial
from gan_dist.training.loop import total_images


def effort(config: RunConfig, trials: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    """Yield images and hours that were spent, and those that were saved.

    Args:
        config: The configuration that trials start from.
        trials: All that were begun.
    """
    spent = sum(trial.images for trial in trials)
    by_state: Counter[str] = Counter()
    for trial in trials:
        by_state[trial.state] += trial.images
    parts = " + ".join(f"{images / 1000:,.10g} {state}" for state, images in by_state.items())
    yield "trained", kimg(spent) + (f" = {parts}" if len(by_state) > 1 else "")
    pruned = [trial for trial in trials if trial.state == PRUNED]
    whole, done = (
        sum(length(config, trial.values) for trial in pruned),
        sum(trial.images for trial in pruned),
    )
    if pruned:
        saved = whole - done
        yield (
            "saved by stopping early",
            f"{kimg(saved)} = {kimg(whole)} that {len(pruned)} pruned trials would have had to their end - "
            f"{kimg(done)} that they had; {saved / (spent + saved):.0%} of {kimg(spent + saved)} in all",
        )
    yield from _hours(config, trials)


def length(config: RunConfig, values: Mapping[str, object]) -> int:
    """Return the images of a trial that is not stopped; its values may be about its length too."""
    parts = {}
    for section, keys in (("train", ("kimg", "batch_size")), ("optim", ("d_steps",))):
        update = {key: values[f"{section}.{key}"] for key in keys if f"{section}.{key}" in values}
        parts[section] = getattr(config, section).model_copy(update=update)
    return total_images(config.model_copy(update=parts))


def _hours(config: RunConfig, trials: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    """Yield hours of the hardware that trials reserve, evaluations and waiting left out."""
    scale = config.scale
    each, unit = (scale.gpus_per_worker, "GPU") if scale.gpus_per_worker else (scale.cpus_per_worker, "CPU")
    reserved = scale.workers * each
    timed = [(trial, trial.rate) for trial in trials if trial.rate]
    if not timed:
        return
    hours = sum(trial.images / rate for trial, rate in timed) / 3600
    said = f"{reserved * hours:.3g} {unit}-hours = {hours:.3g} hours of training x {scale.workers} workers x "
    said += f"{each:g} {unit}s; a trial's hours are its images over its images/s, evaluations left out"
    if len(timed) < len(trials):
        said += f"; of the {len(timed)} trials that have recorded their speed"
    yield f"{unit}-hours", said
    left = [
        (length(config, trial.values) - trial.images, rate) for trial, rate in timed if trial.state == PRUNED
    ]
    if left:
        hours = sum(images / rate for images, rate in left) / 3600
        yield f"{unit}-hours saved", f"{reserved * hours:.3g}, reckoned likewise"
