"""Trying again what may succeed, saying plainly what cannot, and never waiting for ever."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from gan_dist.core.errors import AbsentError, GanDistError, StorageError
from gan_dist.core.storage.filesystems import options
from gan_dist.core.storage.redaction import reason, redact
from gan_dist.core.storage.s3 import store_says
from gan_dist.core.threads import leave_behind

T = TypeVar("T")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
SLOWEST_RATE = 256 * 1024
"""Bytes a second below which a transfer counts as stalled."""

_NO_BUCKET = "the bucket does not exist; create it, or correct its name"
_REFUSED = "the store refuses access; give these credentials the right to it, or use others"

# What no retry mends, by words that the backends' messages share, and what to do about it.
_HOPELESS = (
    (r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist", _NO_BUCKET),
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
        r"RequestTimeTooSkewed|REQUEST_TIME_TOO_SKEWED",
        "this machine's clock is not the store's; set it",
    ),
    (
        r"PermanentRedirect|AuthorizationHeaderMalformed|HTTP status 301",
        "the bucket is in another region; set AWS_REGION, or ?region=... in the URI",
    ),
    (
        r"InvalidBucketName|INVALID_BUCKET_NAME|Invalid bucket name|Expected an S3 object path",
        "S3 allows no such bucket name; correct the URI, which is s3://bucket/prefix",
    ),
    (r"ACCESS_DENIED|AccessDenied|Access Denied|Forbidden|HTTP status 403|\(403\)", _REFUSED),
)
_NOBODY = r"curlCode: [67]\b|EndpointConnectionError|Could not connect to the endpoint|Connection refused"
PATIENCE_WITH_NOBODY = 2
"""Tries at an endpoint that has never answered this process; one that has may be restarting."""

_answered: set[str] = set()


def place(uri: str) -> str:
    """Return a URI's bucket and how that is reached, without the path in it; a local path as it is."""
    return re.sub(r"(://[^/?]*)[^?]*", r"\1", uri)


def retrying(uri: str, action: Callable[[], T], size: int = 0) -> T:
    """Return what `action` does, trying again while its failure may pass and time is left.

    Args:
        uri: What is acted on, for the message.
        action: Something that may be done twice.
        size: Bytes that it moves, if many; they extend the time that it may take.

    Raises:
        AbsentError: there is nothing at `uri`.
        StorageError: it cannot succeed, or did not before its time was over.
    """
    if "://" not in uri:
        return _once(uri, action)
    where = place(uri)
    allowed = options().timeout_s + size / SLOWEST_RATE
    deadline = time.monotonic() + allowed
    tries = 0
    while True:
        tries += 1
        try:
            result = _within(deadline - time.monotonic(), action)
        except Exception as error:
            if isinstance(error, GanDistError):
                raise
            said = _said(uri, error)
            _raise_if_hopeless(uri, error, said)
            nobody = bool(re.search(_NOBODY, said))
            if nobody and where not in _answered and tries >= PATIENCE_WITH_NOBODY:
                raise StorageError(
                    f"{redact(uri)}: nobody answers at the store's address in {tries} tries: {reason(error)}",
                    "check the endpoint: AWS_ENDPOINT_URL, AWS_PROFILE, or endpoint_override in the URI",
                ) from None
            if not nobody and not isinstance(error, TimeoutError):
                _answered.add(where)
            wait = random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**tries))
            if time.monotonic() + wait >= deadline:
                raise StorageError(
                    f"{redact(uri)} could not be used within {allowed:.0f} s, in {tries} tries: "
                    f"{reason(error)}",
                    "check the endpoint and the network, or raise storage.timeout_s",
                ) from None
        else:
            _answered.add(where)
            return result
        time.sleep(wait)


def require_bucket(uri: str) -> None:
    """Tell a bucket that does not exist from one that lacks what a URI names.

    Raises:
        StorageError: the bucket does not exist.
    """
    if uri.startswith("s3://") and _meaning(store_says(uri)) == _NO_BUCKET:
        raise StorageError(f"{redact(uri)}: {_NO_BUCKET}") from None


def _once(uri: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except FileNotFoundError:
        raise AbsentError(f"{redact(uri)} does not exist") from None
    except (NotADirectoryError, FileExistsError) as error:
        kind = AbsentError if isinstance(error, NotADirectoryError) else StorageError
        raise kind(f"{redact(uri)} is a file, or in one, where there should be a folder") from None
    except IsADirectoryError:
        raise StorageError(f"{redact(uri)} is a folder, where there should be a file") from None
    except OSError as error:
        raise StorageError(f"{redact(uri)} cannot be used: {error}") from None


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
        leave_behind(thread)
        raise TimeoutError("no answer")
    return done[0]


def _said(uri: str, error: BaseException) -> str:
    """Return what an error and its causes say, the innermost first."""
    # Libraries soften the store's own words; these stand at the bottom of the chain.
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and len(chain) < 10:
        chain.append(cause)
    said = " | ".join(f"{type(one).__name__}: {one}" for one in reversed(chain))
    # What a user has called a file is no word of the store's.
    path = uri.partition("://")[2].partition("?")[0]
    for name in (path, path.partition("/")[2]):
        said = said.replace(name, "") if name else said
    return said


def _raise_if_hopeless(uri: str, error: Exception, said: str) -> None:
    meaning = _meaning(said)
    if meaning is None and isinstance(error, PermissionError):
        meaning = _REFUSED
    if isinstance(error, FileNotFoundError) and meaning is None:
        require_bucket(uri)
        raise AbsentError(f"{redact(uri)} does not exist") from None
    if meaning == _REFUSED and uri.startswith("s3://"):
        meaning = _meaning(store_says(uri)) or _REFUSED
    if meaning is not None:
        raise StorageError(f"{redact(uri)}: {meaning}") from None


def _meaning(said: str) -> str | None:
    return next((meaning for words, meaning in _HOPELESS if re.search(words, said)), None)
