"""Trying again what may succeed, saying plainly what cannot, and never waiting for ever."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from gan_dist.errors import GanDistError, StorageError
from gan_dist.storage.filesystems import options

T = TypeVar("T")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
SLOWEST_RATE = 256 * 1024
"""Bytes a second below which a transfer counts as stalled."""

# What no retry mends, by words that the backends' messages share, and what to do about it.
_HOPELESS = (
    (
        r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist",
        "the bucket does not exist; create it, or correct its name",
    ),
    (
        r"INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|INVALID_CLIENT_TOKEN|UNRECOGNIZED_CLIENT",
        "the store does not know the access key; set AWS_ACCESS_KEY_ID or AWS_PROFILE to one that it does",
    ),
    (
        r"SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch",
        "the secret key does not belong to the access key; correct AWS_SECRET_ACCESS_KEY",
    ),
    (
        r"ExpiredToken|EXPIRED_TOKEN|token.*expired",
        "the credentials have expired; get new ones",
    ),
    (
        r"NoCredentials|Unable to locate credentials|No credentials",
        "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    (
        r"ACCESS_DENIED|AccessDenied|Access Denied|Forbidden|\b403\b",
        "the store refuses access; give these credentials the right to it, or use others",
    ),
)


def retrying(uri: str, action: Callable[[], T], size: int = 0) -> T:
    """Return what `action` does, trying again while its failure may pass and time is left.

    Args:
        uri: What is acted on, for the message.
        action: Something that may be done twice.
        size: Bytes that it moves, if many; they extend the time that it may take.

    Raises:
        StorageError: it cannot succeed, or did not before its time was over.
    """
    if "://" not in uri:
        return _once(uri, action)
    allowed = options().timeout_s + size / SLOWEST_RATE
    deadline = time.monotonic() + allowed
    tries = 0
    while True:
        tries += 1
        try:
            return _within(deadline - time.monotonic(), action)
        except Exception as error:
            if isinstance(error, GanDistError):
                raise
            _raise_if_hopeless(uri, error)
            wait = random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**tries))
            if time.monotonic() + wait >= deadline:
                raise StorageError(
                    f"{shown(uri)} could not be used within {allowed:.0f} s, in {tries} tries: "
                    f"{_reason(error)}; check the endpoint and the network, or raise storage.timeout_s"
                ) from None
        time.sleep(wait)


def _once(uri: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except FileNotFoundError:
        raise StorageError(f"{uri} does not exist") from None
    except OSError as error:
        raise StorageError(f"{uri} cannot be used: {error}") from None


def _within(seconds: float, action: Callable[[], T]) -> T:
    """Run `action` for at most so long; a thread that is stuck in a library is left behind."""
    done: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(action())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="storage", daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError("no answer")
    return done[0]


def _raise_if_hopeless(uri: str, error: Exception) -> None:
    # Libraries soften the store's own words; these stand at the bottom of the chain.
    chain: list[BaseException] = [error]
    cause = error.__cause__
    while cause is not None and len(chain) < 10:
        chain.append(cause)
        cause = cause.__cause__
    said = " | ".join(f"{type(one).__name__}: {one}" for one in reversed(chain))
    for words, meaning in _HOPELESS:
        if re.search(words, said):
            raise StorageError(f"{shown(uri)}: {meaning}") from None
    if isinstance(error, FileNotFoundError):
        raise StorageError(f"{shown(uri)} does not exist") from None
    if isinstance(error, PermissionError):
        raise StorageError(f"{shown(uri)}: {_HOPELESS[-1][1]}") from None


def _reason(error: Exception) -> str:
    """Return an error in one line, without what a signed request may have put into it."""
    text = re.sub(r"(?i)(X-Amz-\w+|Signature|Credential|AWSAccessKeyId)=[^&\s]+", r"\1=...", str(error))
    return " ".join(text.split())[:200] or type(error).__name__


def shown(uri: str) -> str:
    """Return a URI without the user and password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", uri)
