"""Findings of checks, and a runner of checks: all at once, each with a time limit, none able to raise."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gan_dist.core.errors import GanDistError, Problem
from gan_dist.core.storage.redaction import reason, without_secrets
from gan_dist.core.threads import abandon


@dataclass(frozen=True)
class Finding:
    """One result of a check: all is well, or what is wrong and how to fix it."""

    name: str
    """Subject of the check, in a word."""
    level: Literal["ok", "warning", "error"]
    """`error` is what makes a run or search fail, or a cluster unsafe."""
    what: str
    why: str = ""
    """Why it matters; empty where all is well."""
    remedy: str = ""
    """The command or setting that fixes it; empty where all is well."""


Check = Callable[[], Iterable[Finding]]


def examine(checks: Mapping[str, tuple[Check, float]]) -> list[Finding]:
    """Run checks in parallel and return their findings, in the order of the checks.

    Each has a time limit in seconds. A check that raises or exceeds it adds a finding of level `error`.
    """
    began = time.monotonic()
    found: dict[str, list[Finding]] = {name: [] for name in checks}
    threads = {
        name: threading.Thread(target=_run, args=(name, check, found[name]), name=name, daemon=True)
        for name, (check, _) in checks.items()
    }
    for thread in threads.values():
        thread.start()
    findings: list[Finding] = []
    for name, (_, limit_s) in checks.items():
        threads[name].join(max(0.0, began + limit_s - time.monotonic()))
        given_up = threads[name].is_alive()
        findings += found[name]
        if given_up:
            abandon(threads[name])
            why, remedy = "a run would wait for it too", "look at the network, or wait longer with --timeout"
            findings.append(Finding(name, "error", f"no answer within {limit_s:g} s", why, remedy))
    return findings


def _run(name: str, check: Check, found: list[Finding]) -> None:
    try:
        for finding in check():
            found.append(finding)
    except GanDistError as error:
        found += findings_of(name, error.problems, "a run stops at it")
    except BaseException as error:
        what = f"it could not be checked: {type(error).__name__}: {reason(error)}"
        why = "what is not known to be right may be wrong"
        found.append(Finding(name, "error", what, why, "look at what is named"))


def findings_of(
    name: str, problems: Iterable[Problem], why: str, level: Literal["warning", "error"] = "error"
) -> Iterator[Finding]:
    """Yield one finding for each problem, without secrets; `why` is its consequence."""
    for problem in problems:
        what = f"{problem.where}: {problem.what}" if problem.where else problem.what
        yield Finding(name, level, without_secrets(what), why, without_secrets(problem.remedy))


def wrong_interface(name: str, where: str, given: str | None, known: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding if GLOO_SOCKET_IFNAME is `given` and none of the `known` interfaces.

    `where` is the node in the message, or empty.
    """
    if given is not None and given.split(",")[0] not in known:
        what = f"{where}GLOO_SOCKET_IFNAME={given} is no interface there"
        remedy = f"set it to one of {', '.join(known)}, or unset it"
        yield Finding(name, "error", what, "workers on CPUs cannot be joined", remedy)
