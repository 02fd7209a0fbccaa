"""URIs and libraries' errors as messages quote them: on one line, and without secrets."""

from __future__ import annotations

import os
import re

# A password may itself hold slashes; a lone `name@`, as abfs has it, is no secret; nor is a port.
_PASSWORD = re.compile(r"(?<=://)[^/?@:]*:(?!\d*(?:/|\?|$))[^?]*@")
# A bucket's name has neither of these.
_IN_S3 = re.compile(r"(?<=\bs3://)[^/?]*[:@](?:[^?]*@)?")
_SETTING = re.compile(r"(?<=[?&])((?!endpoint_override=|scheme=|region=|split=)[^=&]*)=[^&]*")
_SIGNED = re.compile(r"(?i)(X-Amz-[\w-]+|Signature|Credential|AWSAccessKeyId)=[^&\s]+")
SECRET_WORDS = "secret|password|passwd|pass|token|apikey|api_key|access_key|private_key|storage_key"
_VARIABLE = re.compile(rf"(?i)(?:^|_)(?:{SECRET_WORDS}|connection_string)(?:_id)?$|_pwd$|^pgpassword$")
CREDENTIALS = "holds credentials, which every record of the run would show"
CREDENTIALS_REMEDY = "take them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_SHORTEST = 8
"""Characters; a shorter value may occur anywhere by chance."""


def split_query(uri: str) -> tuple[str, str, str]:
    """Return a URI up to its query, the question mark, and the query; a local path has no query."""
    return uri.partition("?") if "://" in uri else (uri, "", "")


def as_argument(path: str) -> str:
    """Return a path or URI as an argument of a command, which is neither an option nor a user's home."""
    return f"./{path}" if path.startswith(("-", "~")) else path


def holds_secret(uri: str) -> bool:
    """Return whether a URI has a user with a password, as in `s3://key:secret@bucket`."""
    return bool(_IN_S3.search(uri) or _PASSWORD.search(uri))


def without_password(uri: str) -> str:
    """Return a URI, or text with one, without user and password."""
    return _PASSWORD.sub("", _IN_S3.sub("", uri))


def redact(uri: str) -> str:
    """Return a URI without user and password, and without the values of unknown settings."""
    return _SETTING.sub(r"\1=...", without_password(uri)) if "://" in uri else uri


def secrets_here() -> dict[str, str]:
    """Return this process's environment variables whose names are those of secrets."""
    variables = os.environ.items()
    return {name: value for name, value in variables if _VARIABLE.search(name) and len(value) >= _SHORTEST}


def without_secrets(text: str) -> str:
    """Return `text` with the values of `secrets_here` replaced by dots."""
    for value in secrets_here().values():
        text = text.replace(value, "...")
    return text


def reason(error: BaseException) -> str:
    """Return the text of an error on one line, without passwords, secrets and signatures of requests."""
    words = _SIGNED.sub(r"\1=...", without_secrets(str(error))).split()
    return " ".join(map(redact, words))[:300] or type(error).__name__
