"""Retries of storage operations within a time limit, and clear errors for failures that no retry mends."""

from __future__ import annotations

import errno
import random
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple, TypeVar

from gan_dist.core.errors import AbsentError, GanDistError, OutageError, StorageError
from gan_dist.core.host import proxy_remedy
from gan_dist.core.storage.aws_settings import store_url
from gan_dist.core.storage.clouds import is_cloud
from gan_dist.core.storage.filesystems import open_uri, options
from gan_dist.core.storage.redaction import reason, redact
from gan_dist.core.storage.s3 import refusal_code
from gan_dist.core.threads import abandon

T = TypeVar("T")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0
SLOWEST_RATE = 256 * 1024
"""Bytes per second below which a transfer counts as stalled."""
TRIES_AT_UNKNOWN = 2
"""Tries at an endpoint that has never answered this process; one that has may be restarting."""


class _Cause(NamedTuple):
    pattern: str
    """Regular expression of words that the error messages of both backends share."""
    what: str
    remedy: str


_NO_BUCKET = _Cause(
    r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist|ContainerNotFound",
    "the bucket does not exist",
    "create it, or correct its name",
)
_REFUSED = _Cause(
    r"ACCESS_DENIED|AccessDenied|Access Denied|Forbidden|HTTP status 403|\(403\)|"
    r"PERMISSION_DENIED|AuthorizationPermissionMismatch|InsufficientAccountPermissions",
    "the store refuses access",
    "give these credentials the right to it, or use others",
)
_PERMANENT = (
    _NO_BUCKET,
    _Cause(
        r"INVALID_ACCESS_KEY_ID|InvalidAccessKeyId|INVALID_CLIENT_TOKEN|UNRECOGNIZED_CLIENT",
        "the store does not know the access key",
        "set AWS_ACCESS_KEY_ID or AWS_PROFILE to one that it does",
    ),
    _Cause(
        r"SIGNATURE_DOES_NOT_MATCH|SignatureDoesNotMatch",
        "the secret key does not belong to the access key",
        "correct AWS_ACCESS_KEY_ID or AWS_SECRET_ACCESS_KEY, or the profile that gives them",
    ),
    _Cause(r"ExpiredToken|EXPIRED_TOKEN|token.*expired", "the credentials have expired", "get new ones"),
    _Cause(
        r"NoCredentials|Unable to locate credentials|No credentials",
        "there are no credentials",
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    ),
    _Cause(
        r"Could not create a OAuth2 access token|Your default credentials were not found",
        "there are no credentials",
        "set GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account",
    ),
    _Cause(
        r"DefaultAzureCredential|ChainedTokenCredential",
        "there are no credentials",
        "set AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or give the machine an identity",
    ),
    _Cause(
        r"AuthenticationFailed|AuthorizationFailure|Server failed to authenticate|UNAUTHENTICATED",
        "the store does not accept the credentials",
        "correct AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or GOOGLE_APPLICATION_CREDENTIALS",
    ),
    _Cause(
        r"RequestTimeTooSkewed|REQUEST_TIME_TOO_SKEWED", "this machine's clock is not the store's", "set it"
    ),
    _Cause(
        r"PermanentRedirect|AuthorizationHeaderMalformed|HTTP status 301",
        "the bucket is in another region",
        "set AWS_REGION, or ?region=... in the URI",
    ),
    _Cause(
        r"InvalidBucketName|INVALID_BUCKET_NAME|Invalid bucket name|Expected an S3 object path",
        "S3 allows no such bucket name",
        "correct the URI, which is s3://bucket/prefix",
    ),
    _REFUSED,
)
_UNREACHABLE = (
    r"curlCode: [67]\b|EndpointConnectionError|Could not connect to the endpoint|Connection refused|"
    r"ProxyConnectionError|connect to proxy|CURL error \[[67]\]|Fail to get a new connection"
)

_OUTAGES = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN}
"""Errors of a local path whose network filesystem does not answer, or whose disk is being mended."""

_answered: set[str] = set()
"""Buckets whose stores have answered this process."""


def bucket_of(uri: str) -> str:
    """Return a URI without the path in its bucket, but with its query; a local path as it is."""
    return re.sub(r"(://[^/?]*)[^?]*", r"\1", uri)


def retrying(uri: str, action: Callable[[], T], size: int = 0) -> T:
    """Call `action` again until it succeeds, fails for good, or has no time left; return its result.

    `uri` is what is read or written, for messages; `size` bytes that are transferred extend the time limit.

    Raises:
        AbsentError: there is nothing at `uri`.
        OutageError: `action` did not succeed within the time limit, or nobody answers.
        StorageError: `action` cannot succeed.
    """
    if "://" not in uri:
        return _try_locally(uri, action)
    bucket = bucket_of(uri)
    limit_s = options().timeout_s + size / SLOWEST_RATE
    deadline = time.monotonic() + limit_s
    tries = 0
    while True:
        tries += 1
        try:
            result = _call(action, deadline - time.monotonic())
        except GanDistError:
            raise
        except Exception as error:
            messages = _messages(uri, error)
            if (permanent := _permanent_error(uri, error, messages)) is not None:
                raise permanent from None
            unreachable = bool(re.search(_UNREACHABLE, messages))
            if unreachable and bucket not in _answered and tries >= TRIES_AT_UNKNOWN:
                raise OutageError(
                    f"{redact(uri)}: nobody answers at the store's address in {tries} tries: {reason(error)}",
                    f"check the endpoint: {'' if is_cloud(uri) else 'AWS_ENDPOINT_URL, AWS_PROFILE, or '}"
                    "endpoint_override in the URI"
                    + (proxy_remedy(store_url(uri)) if uri.startswith("s3://") else ""),
                ) from None
            if not unreachable and not isinstance(error, TimeoutError):
                _answered.add(bucket)
            wait_s = random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**tries))
            if time.monotonic() + wait_s >= deadline:
                what = f"{redact(uri)} could not be used within {limit_s:.0f} s, in {tries} tries"
                remedy = "check the endpoint and the network, or raise storage.timeout_s"
                keys = ("storage.timeout_s",)
                raise OutageError(f"{what}: {reason(error)}", remedy, keys=keys) from None
        else:
            _answered.add(bucket)
            return result
        time.sleep(wait_s)


def require_bucket(uri: str) -> None:
    """Raise a StorageError if the bucket of a URI does not exist."""
    absent = uri.startswith("s3://") and _cause(refusal_code(uri)) is _NO_BUCKET
    if is_cloud(uri):
        filesystem, bucket = open_uri(bucket_of(uri))
        with suppress(OSError, TimeoutError):  # whether it exists may not be for these credentials to know
            absent = _call(lambda: filesystem.get_file_info(bucket).type.name, 10) == "NotFound"
    if absent:
        raise StorageError(f"{redact(uri)}: {_NO_BUCKET.what}", _NO_BUCKET.remedy) from None


def _try_locally(uri: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except FileNotFoundError:
        raise AbsentError(f"{redact(uri)} does not exist") from None
    except (NotADirectoryError, FileExistsError) as error:
        of_path = AbsentError if isinstance(error, NotADirectoryError) else StorageError
        raise of_path(f"{redact(uri)} is a file, or in one, where there should be a folder") from None
    except IsADirectoryError:
        raise StorageError(f"{redact(uri)} is a folder, where there should be a file") from None
    except OSError as error:
        kind = OutageError if error.errno in _OUTAGES else StorageError
        raise kind(f"{redact(uri)} cannot be used: {error}") from None


def _call(action: Callable[[], T], limit_s: float) -> T:
    """Return the result of `action`, which runs in a thread; the thread is abandoned at the time limit."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="storage", daemon=True)
    thread.start()
    thread.join(max(0.0, limit_s))
    if future.done():
        return future.result()
    abandon(thread)
    raise TimeoutError("no answer")


def _messages(uri: str, error: BaseException) -> str:
    """Return the messages of an error and its causes, the innermost first, without the names in the URI."""
    # Libraries paraphrase the store's error; the store's own words are at the bottom of the chain.
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and len(chain) < 10:
        chain.append(cause)
    text = " | ".join(f"{type(one).__name__}: {one}" for one in reversed(chain))
    # A user's file may be called NoSuchBucket.
    path = uri.partition("://")[2].partition("?")[0]
    for name in (path, path.partition("/")[2]):
        text = text.replace(name, "") if name else text
    return text


def _permanent_error(uri: str, error: Exception, messages: str) -> StorageError | None:
    """Return the error to raise if no retry mends a failure."""
    cause = _cause(messages)
    if cause is None and isinstance(error, FileNotFoundError):
        require_bucket(uri)
        return AbsentError(f"{redact(uri)} does not exist")
    if cause is None and isinstance(error, PermissionError):
        cause = _REFUSED
    if cause is _REFUSED and uri.startswith("s3://"):
        cause = _cause(refusal_code(uri)) or _REFUSED
    return None if cause is None else StorageError(f"{redact(uri)}: {cause.what}", cause.remedy)


def _cause(messages: str) -> _Cause | None:
    return next((cause for cause in _PERMANENT if re.search(cause.pattern, messages)), None)
