"""Audits of a run or release: what is recorded is compared, and random stretches are trained again.

Equal bits prove what nothing recorded can: that these images, this configuration and this code give these
weights and figures. They are promised on equal hardware with equal versions and numbers of workers; elsewhere
equal bits prove as much, and different ones nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence

from gan_dist.core.json_text import parse_object
from gan_dist.core.storage.hashed_folder import parse_file, read_folder, read_manifest
from gan_dist.models.release import CONFIG, MEASURED, WEIGHTS
from gan_dist.training.audit_checks import Audit, Check
from gan_dist.training.progress import Progress


def audit_run(
    run_uri: str,
    segments: int,
    seed: int,
    show: Callable[[Progress], None],
    trust: Collection[str] = (),
) -> Iterator[Check]:
    """Yield the checks of a run: its records, and `segments` random stretches trained again.

    `trust` has the import paths of code of a user's own that may be imported.

    Raises:
        CheckpointError: the run has no audit log.
    """
    audit = Audit(run_uri, trust)
    yield from _static(audit)
    if not (stretches := audit.stretches()):
        detail = "no checkpoint is kept from which the next could be trained again; raise train.keep"
        yield Check("stretches", None, detail)
    chosen = random.Random(seed).sample(stretches, min(segments, len(stretches)))
    for stretch in sorted(chosen, key=lambda one: one.end.images):
        yield from audit.replayed(stretch, show)


def audit_release(
    uri: str, run_uri: str, show: Callable[[Progress], None], trust: Collection[str] = ()
) -> Iterator[Check]:
    """Yield the checks of a release against the run that made it; the stretch before it is trained again.

    `trust` is that of `audit_run`.

    Raises:
        CheckpointError: the release is damaged, or the run's log does not know it.
    """
    _, contents = read_folder(uri, ["release"])
    files = read_manifest(uri, ["release"]).files
    record = parse_file(uri, contents, MEASURED, parse_object)
    audit = Audit(run_uri, trust)
    stretch = audit.before(int(record["images"]))
    end = stretch.end
    at = f"those of the run after {end.images / 1000:g} kimg"
    yield Check(WEIGHTS, files[WEIGHTS] == end.average, at)
    yield Check(CONFIG, files[CONFIG] == end.config, at)
    edited = [name for name, value in end.figures.items() if record.get(name) != value]
    detail = "; ".join(f"{name} is {record.get(name)}, and was {end.figures[name]}" for name in edited)
    yield Check(MEASURED, not edited, detail or at)
    yield from _static(audit)
    yield from audit.replayed(stretch, show, uri)


def _static(audit: Audit) -> Iterator[Check]:
    for checks in (audit.records, audit.checkpoints, audit.configuration, audit.data):
        yield from checks()


def verdict(checks: Sequence[Check]) -> bool | None:
    """Return whether all is equal: False if something is not, None if something could not be decided."""
    results = {check.equal for check in checks}
    return False if False in results else None if None in results else True
