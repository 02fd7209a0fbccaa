"""The AWS settings of this process: environment, configuration files, and the query of a URI.

botocore, which s3fs uses and by which this package asks stores itself, follows all of them. The S3 filesystem
of pyarrow knows some and is given others; for the rest of them it is replaced by s3fs (`needs_s3fs`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from gan_dist.core.errors import StorageError
from gan_dist.core.host import proxy_remedy
from gan_dist.core.storage.redaction import redact

NESTED = {
    *("addressing_style", "payload_signing_enabled", "use_accelerate_endpoint", "use_dualstack_endpoint"),
    *("us_east_1_regional_endpoint", "s3_disable_express_session_auth"),
}
"""Settings of a profile's `s3` that pyarrow cannot be given, or not as botocore understands them."""
CREDENTIALS = {
    *("role_arn", "source_profile", "credential_source", "web_identity_token_file", "credential_process"),
    *("sso_session", "sso_start_url", "sso_account_id", "login_session"),
}
"""Settings of a profile that say where credentials are fetched, which botocore also renews."""
VARIABLES = {
    "ca_bundle": ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"),
    "use_fips_endpoint": ("AWS_USE_FIPS_ENDPOINT",),
    "use_dualstack_endpoint": ("AWS_USE_DUALSTACK_ENDPOINT",),
}
"""Settings of a profile that environment variables may have, too."""
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\.?|\[?[0-9A-Fa-f:.]+\]?")


def endpoint_and_region(query: str) -> tuple[str | None, str | None]:
    """Return endpoint URL and region of an S3 URI: the URI's own, else the environment's, else the profile's.

    Raises:
        ValueError: the query has an unknown setting, the AWS configuration cannot be read, or a setting can
            never work; the text says the form that it must have.
    """
    settings = dict(parse_qsl(query))
    if unknown := set(settings) - {"endpoint_override", "scheme", "region"}:
        raise ValueError(f"{', '.join(sorted(unknown))} is not a setting of an s3 URI")
    profile, services = read_profile()
    environment = os.environ
    ignored = environment.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS") or profile.get(
        "ignore_configured_endpoint_urls", ""
    )
    found = {
        "AWS_ENDPOINT_URL_S3": environment.get("AWS_ENDPOINT_URL_S3"),
        "AWS_ENDPOINT_URL": environment.get("AWS_ENDPOINT_URL"),
        "endpoint_url of the profile's services": services.get("s3", {}).get("endpoint_url"),
        "endpoint_url of the profile's s3": profile.get("s3", {}).get("endpoint_url"),
        "endpoint_url of the profile": profile.get("endpoint_url"),
    }
    given = {} if ignored.lower() == "true" else {name: url for name, url in found.items() if url}
    if host := settings.get("endpoint_override"):
        url = host if "://" in host else f"{settings.get('scheme', 'https')}://{host}"
        given = {"endpoint_override": url}
    name, endpoint = next(iter(given.items()), ("", None))
    if endpoint is not None:
        _require_url(name, endpoint)
    region = (
        settings.get("region")
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or profile.get("region")
    )
    if region and not re.fullmatch(r"[A-Za-z0-9-]{1,63}", region):
        raise ValueError(f"the region {region!r} is no name of one, such as eu-central-1")
    return endpoint, region


def store_url(uri: str) -> str:
    """Return the URL of the store of an S3 URI; raise a StorageError for settings that can never work."""
    try:
        endpoint, region = endpoint_and_region(uri.partition("?")[2])
    except ValueError as error:
        raise StorageError(f"{redact(uri)} cannot be reached ({error})", "correct the AWS settings") from None
    return endpoint or f"https://s3.{region or 'us-east-1'}.amazonaws.com"


def addressing(endpoint: str | None, backend: str) -> dict[str, str] | None:
    """Return botocore's settings of how a bucket is addressed, None for its own choice.

    pyarrow puts the bucket into the path at an endpoint that is not Amazon's; what asks in its place does so,
    too, unless the profile says otherwise.
    """
    of_profile = "addressing_style" in read_profile()[0].get("s3", {})
    return {"addressing_style": "path"} if endpoint and backend == "pyarrow" and not of_profile else None


def needs_s3fs(endpoint: str | None) -> str:
    """Return the name of a setting that pyarrow does not follow and s3fs does, or an empty text."""
    profile, _ = read_profile()
    for setting, variables in VARIABLES.items():
        for name in variables:
            if os.environ.get(name, "").lower() not in ("", "false"):
                return name
        if profile.get(setting, "").lower() not in ("", "false"):
            return setting
    if nested := NESTED & profile.get("s3", {}).keys():
        return f"s3.{min(nested)}"
    if "AWS_ACCESS_KEY_ID" not in os.environ and (sources := CREDENTIALS & profile.keys()):
        return min(sources)
    return "a proxy" if proxy_remedy(endpoint or "https://s3.amazonaws.com") else ""


def read_profile() -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the settings of the AWS profile, and those of the services that it names.

    Raises:
        ValueError: the configuration cannot be read, or a section has a value where settings must be.
    """
    import botocore.session
    from botocore.exceptions import BotoCoreError

    session = botocore.session.Session()
    try:
        profile: Mapping[str, Any] = session.get_scoped_config()
        sections = session.full_config.get("services", {})
    except BotoCoreError as error:
        raise ValueError(str(error)) from None
    services: Mapping[str, Any] = sections.get(profile.get("services", ""), {})
    for name, value in (("s3", profile.get("s3", {})), ("s3 of services", services.get("s3", {}))):
        if not isinstance(value, Mapping):
            raise ValueError(
                f"the AWS profile has {name} = {value}, where lines of settings must follow it, indented, "
                "such as addressing_style = path"
            )
    return profile, services


def _require_url(name: str, url: str) -> None:
    """Raise ValueError unless a URL of a store can work."""
    example = "such as https://store.example.com or http://127.0.0.1:9000"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"{name}={url} is not a URL; write one {example}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{name}={url} does not begin with http:// or https://; write a URL {example}")
    if not _HOST.fullmatch(host):
        raise ValueError(
            f"{name}={url}: hosts' names have letters, digits, hyphens and dots only; give the host another "
            "name, or use its address"
        )
