"""The best of a search or run: as brute force finds it; what is not whole is passed over."""

from __future__ import annotations

import json
import math
import random
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gan_dist.artifacts.best import find_best
from gan_dist.artifacts.records import METRICS
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, StorageError
from gan_dist.core.storage.hashed_folder import read_folder, to_json, write_folder
from tests.support.searches import (
    SMALL,
    Record,
    flip_bit,
    record,
    trial_uri,
    write_run,
    write_search,
)


def lose_file(release: Path) -> None:
    (release / "generator.safetensors").unlink()


def lose_manifest(release: Path) -> None:
    (release / "manifest.json").unlink()


def exchange(release: Path) -> None:
    """Put a whole release of another measurement in its place."""
    contents = read_folder(str(release), ["release"])[1]
    told = {**json.loads(contents["metrics.json"]), "fd_digits": 0.125}
    write_folder(str(release), "release", {**contents, "metrics.json": to_json(told)}.items())


def made_up(release: Path) -> None:
    """Its record holds no JSON, and its manifest says so."""
    _, contents = read_folder(str(release), ["release"])
    write_folder(str(release), "release", {**contents, "metrics.json": b"{"}.items())


DAMAGE: list[Callable[[Path], object]] = [
    *(shutil.rmtree, lose_file, lose_manifest, flip_bit, exchange, made_up)
]


def make_history(rng: random.Random, uri: Path, sign: int) -> tuple[dict[int, list[Record]], set[int]]:
    """Write a search of random trials; return their records, and which trials' releases were damaged."""
    histories, damaged = {}, set()
    for number in rng.sample(range(12), rng.randint(1, 6)):
        if rng.random() < 0.15:
            (uri / "trials" / f"{number:05d}").mkdir(parents=True)  # killed before it measured anything
            continue
        # Few different values, so that there are ties within a run and between runs.
        odd = [math.nan, math.inf, -math.inf, None]
        values = [rng.choice([1.0, 2.0, 2.5, 3, 4.0, *odd]) for _ in range(rng.randint(0, 5))]
        records = [record(64 * step, value) for step, value in enumerate(values, 1)]
        records.append({"images": 64 * len(records) + 32, "loss_d": 0.5})  # an interrupt's: not measured
        finite = [one for one in records if math.isfinite(one.get("fd_digits") or math.nan)]
        best = min(finite, key=lambda one: (sign * one["fd_digits"], one["images"]), default=None)
        run = trial_uri(str(uri), number)
        write_run(run, records, *([best] if best else []))
        if rng.random() < 0.3:
            cut = '{"images": 999, "fd_digits": 0.'
            storage.append_text(storage.join(run, METRICS), cut)
        histories[number] = finite
        if best and rng.random() < 0.3:
            rng.choice(DAMAGE)(Path(run) / f"best_{best['images']:012d}")
            damaged.add(number)
    return histories, damaged


def brute_force(
    histories: Mapping[int, list[Record]], damaged: set[int], sign: int
) -> tuple[Any, ...] | None:
    """Return value, images and trial of the best whose release is whole, from all records at once."""
    flat = [
        (sign * one["fd_digits"], one["images"], number)
        for number, records in histories.items()
        if number not in damaged
        for one in records
    ]
    if not flat:
        return None
    value, images, number = sorted(flat)[0]
    return sign * value, images, number


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_is_that_of_brute_force(mode: str, tmp_path: Path) -> None:
    sign = 1 if mode == "min" else -1
    outcomes: list[object] = []
    for seed in range(100):
        uri = tmp_path / str(seed)
        write_search(str(uri), mode=mode)
        histories, damaged = make_history(random.Random(f"{mode} {seed}"), uri, sign)
        expected = brute_force(histories, damaged, sign)
        outcomes.append(expected)
        if expected is None:
            with pytest.raises(CheckpointError):
                find_best(str(uri))
            continue
        found = find_best(str(uri))
        assert (found.value, found.images, found.trial) == expected
        ranks = {n: brute_force({n: histories[n]}, set(), sign) for n in damaged}
        better = {n for n, best in ranks.items() if best and sign * best[0] < sign * expected[0]}
        assert len(better) <= len(found.warnings) <= len(damaged)
        assert all(any(f"trial {n:05d}" in warning for warning in found.warnings) for n in better)
    assert 1 < outcomes.count(None) < 40


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_release_that_is_not_whole_is_passed_over_and_named(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    uri = str(tmp_path)
    write_search(uri)
    for number, value in enumerate([3.0, 1.25, 2.0]):
        write_run(trial_uri(uri, number), [record(64, value)], record(64, value))
    assert (find_best(uri).trial, find_best(uri).warnings) == (1, ())
    damage(Path(trial_uri(uri, 1), "best_000000000064"))
    found = find_best(uri)
    assert (found.trial, found.value, found.trials) == (2, 2.0, 3)
    (warning,) = found.warnings
    assert warning.startswith("fd_digits 1.25 of trial 00001 after 0.064 kimg is passed over: ")
    for number in (0, 2):
        damage(Path(trial_uri(uri, number), "best_000000000064"))
    with pytest.raises(
        CheckpointError, match=r"has no release that is whole: fd_digits 1\.25 of trial 00001"
    ):
        find_best(uri)


def test_a_release_that_its_kill_left_unrecorded_counts(tmp_path: Path) -> None:
    """The best release takes the old one's place a moment before its record is written."""
    write_run(str(tmp_path), [record(64, 2.0)], record(128, 1.5))
    found = find_best(str(tmp_path))
    assert (found.value, found.images, found.trial, found.warnings) == (1.5, 128, None, ())


def test_a_damaged_record_is_named_and_the_other_trials_count(tmp_path: Path) -> None:
    uri = str(tmp_path)
    write_search(uri)
    for number, value in enumerate([1.0, 2.0]):
        write_run(trial_uri(uri, number), [record(64, value)], record(64, value))
    Path(trial_uri(uri, 0), METRICS).write_text('{"images": 64, "fd_digits"\n{}\n')
    Path(trial_uri(uri, 0), "best.json").write_text("{")
    found = find_best(uri)
    assert found.trial == 1
    damaged = f"{trial_uri(uri, 0)}/{METRICS} is damaged: what it tells in lines 1, 2 does not count"
    assert found.warnings == (damaged,)


def test_other_folders_among_the_trials_are_no_trials(tmp_path: Path) -> None:
    uri = str(tmp_path)
    write_search(uri)
    write_run(trial_uri(uri, 7), [record(64, 2.0)], record(64, 2.0))
    write_run(storage.join(uri, "trials", "faces-best"), [record(64, 1.0)], record(64, 1.0))
    assert (find_best(uri).trial, find_best(uri).trials) == (7, 1)


def test_trials_are_read_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, names, together = str(tmp_path), storage.list_names, threading.Barrier(8)
    write_search(uri)
    for number in range(8):
        write_run(trial_uri(uri, number), [record(64, 8.0 - number)], record(64, 8.0 - number))

    def meeting(at: str) -> list[str]:
        if "/trials/" in at:
            together.wait(timeout=30)
        return names(at)

    monkeypatch.setattr(storage, "list_names", meeting)
    assert find_best(uri).trial == 7


def test_a_store_that_does_not_answer_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, names, read = str(tmp_path), storage.list_names, storage.read_bytes
    write_search(uri)
    for number, value in enumerate([1.0, 2.0]):
        write_run(trial_uri(uri, number), [record(64, value)], record(64, value))

    def unless_away(action: Callable[[str], Any]) -> Callable[[str], Any]:
        def act(at: str) -> Any:
            if "/00000/best_" in at:
                raise StorageError(f"{at} could not be used within 60 s")
            return action(at)

        return act

    monkeypatch.setattr(storage, "list_names", unless_away(names))
    monkeypatch.setattr(storage, "read_bytes", unless_away(read))
    with pytest.raises(StorageError, match="within 60 s"):
        find_best(uri)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Path, r"is neither a search nor a run: it has no search\.json and no metrics\.jsonl"),
        (lambda uri: write_folder(uri, "release", SMALL.items()), "is neither a search nor a run"),
        (lambda uri: storage.write_bytes(f"{uri}/config.yaml", b""), "has no measurement yet"),
        (lambda uri: write_search(uri), "has no measurement yet"),
        (lambda uri: storage.write_bytes(f"{uri}/search.json", b"[]"), r"search\.json is damaged"),
        (lambda uri: storage.write_bytes(f"{uri}/search.json", b"{"), r"search\.json is damaged"),
        (lambda uri: write_search(uri, format=2), "is of format 2 .* use the gan-dist that made the search"),
        (lambda uri: write_run(uri, [{"images": 64, "loss_d": 0.1}]), "has no measurement yet"),
        (lambda uri: write_run(uri, [record(64, math.nan), record(128, None)]), "has no fd_digits that is a"),
    ],
)
def test_where_there_is_no_best_that_is_said(
    made: Callable[[str], object], message: str, tmp_path: Path
) -> None:
    made(str(tmp_path))
    with pytest.raises(CheckpointError, match=message):
        find_best(str(tmp_path))


def test_a_missing_bucket_is_told_from_one_without_a_run(bucket: str) -> None:
    with pytest.raises(CheckpointError, match="is neither a search nor a run"):
        find_best(f"{bucket}/runs/faces")
    with pytest.raises(StorageError, match="the bucket does not exist; create it, or correct its name"):
        find_best("s3://nowhere-to-be-found/runs/faces")


def test_a_metric_that_was_not_measured_is_said_with_those_that_were(tmp_path: Path) -> None:
    uri = str(tmp_path)
    write_search(uri, "fid")
    measured = {**record(64, 2.0), "kid_digits": 0.1, "modes": 10.0}
    write_run(trial_uri(uri, 0), [measured], measured)
    with pytest.raises(CheckpointError, match="has the metric fid; there are fd_digits, kid_digits, modes"):
        find_best(uri)


def test_a_mean_over_seeds_names_the_winner(tmp_path: Path) -> None:
    """A search that has run its best again knows which of them was lucky."""
    search = str(tmp_path / "search")
    write_search(search)
    for number, value in enumerate([1.0, 2.0, 3.0]):
        one = record(64, value)
        write_run(trial_uri(search, number), [one], one)
    assert find_best(search).trial == 0
    named = [{"trial": 1, "values": [2.0, 2.2]}, {"trial": 0, "values": [1.0, 4.2]}]
    (tmp_path / "search" / "replicates.json").write_text(json.dumps(named))
    assert find_best(search).trial == 1


@pytest.mark.parametrize(
    "written",
    [
        b"{",
        b"\xff",
        b"{}",
        b'"0"',
        b"[0]",
        b'[{"values": [1.0, 2.0]}]',
        b'[{"trial": 0}]',
        b'[{"trial": 0, "values": []}]',
        b'[{"trial": "first", "values": [1.0]}]',
        b'[{"trial": 0, "values": [null]}]',
    ],
)
def test_damaged_means_over_seeds_are_named(written: bytes, tmp_path: Path) -> None:
    uri = str(tmp_path)
    write_search(uri)
    write_run(trial_uri(uri, 0), [record(64, 1.0)], record(64, 1.0))
    (tmp_path / "replicates.json").write_bytes(written)
    with pytest.raises(
        CheckpointError, match=rf"^{uri}/replicates\.json is damaged .*; restore it, or delete"
    ):
        find_best(uri)
