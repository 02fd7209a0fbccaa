"""URIs and libraries' errors as messages quote them: on one line, and without secrets."""

from __future__ import annotations

import re

# A password may itself hold slashes; a lone `name@`, as abfs has it, is no secret; nor is a port.
_PASSWORD = re.compile(r"(?<=://)[^/?@:]*:(?!\d*(?:/|\?|$))[^?]*@")
# A bucket's name has neither of these.
_IN_S3 = re.compile(r"(?<=^s3://)[^/?]*[:@](?:[^?]*@)?")
_SETTING = re.compile(r"(?<=[?&])((?!endpoint_override=|scheme=|region=|split=)[^=&]*)=[^&]*")
_SIGNED = re.compile(r"(?i)(X-Amz-[\w-]+|Signature|Credential|AWSAccessKeyId)=[^&\s]+")


def split_query(uri: str) -> tuple[str, str, str]:
    """Return a URI up to its query, the question mark, and the query; a local path has no query."""
    return uri.partition("?") if "://" in uri else (uri, "", "")


def as_argument(path: str) -> str:
    """Return a path or URI as an argument of a command, which is neither an option nor a user's home."""
    return f"./{path}" if path.startswith(("-", "~")) else path


def holds_secret(uri: str) -> bool:
    """Return whether a URI has a user with a password, as in `s3://key:secret@bucket`."""
    return bool(_IN_S3.search(uri) or _PASSWORD.search(uri))


def redact(uri: str) -> str:
    """Return a URI without user and password, and without the values of unknown settings."""
    if "://" not in uri:
        return uri
    return _SETTING.sub(r"\1=...", _PASSWORD.sub("", _IN_S3.sub("", uri)))


def reason(error: BaseException) -> str:
    """Return the text of an error on one line, without passwords and signatures of requests."""
    words = _SIGNED.sub(r"\1=...", str(error)).split()
    return " ".join(map(redact, words))[:300] or type(error).__name__
