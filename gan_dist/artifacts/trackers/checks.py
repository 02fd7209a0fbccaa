"""What can be said of trackers before a run: their packages, addresses and credentials."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import requests

from gan_dist.core import extras
from gan_dist.core.errors import ConfigError, Problem
from gan_dist.core.host import proxy_remedy
from gan_dist.core.storage import redact
from gan_dist.core.storage.redaction import reason

TIMEOUT_S = 5.0
VARIABLES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
    *("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_MODE", "WANDB_PROJECT"),
)
"""Environment variables of trackers without secrets, which a submitted job gets."""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "WANDB_API_KEY")
"""Those with secrets, which the nodes of a cluster must have themselves."""
_KEYS = ("log.to",)


def require_trackers(names: Iterable[str], warn: Callable[[str], None], *, ask: bool = True) -> None:
    """Refuse trackers in `log.to` that can never work; warn of those that do not answer now.

    Raises:
        ConfigError: an address is not set or is another service's, or the credentials are refused.
        MissingPackageError: a package is absent.
    """
    problems = []
    for name in names:
        if name != "tensorboard":
            extras.require(name, f"log.to={name}")
        if name == "mlflow":
            problems += _check_mlflow(warn, ask=ask)
        elif name == "wandb" and ask:
            problems += _check_wandb(warn)
    if problems:
        raise ConfigError(problems)


def _check_mlflow(warn: Callable[[str], None], *, ask: bool) -> list[Problem]:
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address:
        remedy = "set it to your server's, as http://HOST:5000, or to sqlite:////absolute/path.db"
        return [Problem("log.to=mlflow: MLFLOW_TRACKING_URI is not set", remedy, _KEYS)]
    if not ask or urlsplit(address).scheme not in ("http", "https"):
        return []
    token, user = os.environ.get("MLFLOW_TRACKING_TOKEN"), os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    try:
        answer = requests.get(
            f"{address.rstrip('/')}/api/2.0/mlflow/experiments/search",
            {"max_results": "1"},
            headers={"Authorization": f"Bearer {token}"} if token else {},
            auth=(user, password) if user else None,
            verify=_verified(),
            timeout=TIMEOUT_S,
        )
    except (OSError, ValueError) as error:
        return _unreachable("mlflow", "MLFLOW_TRACKING_URI", address, error, warn)
    credentials = "MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    return _judge("mlflow", "MLFLOW_TRACKING_URI", address, answer, credentials, "experiments", warn)


def _verified() -> bool | str:
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        return False
    return os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True


def _check_wandb(warn: Callable[[str], None]) -> list[Problem]:
    if os.environ.get("WANDB_MODE", "online") in ("offline", "disabled", "dryrun"):
        return []
    address = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    key = os.environ.get("WANDB_API_KEY")
    credentials = "WANDB_API_KEY, or `wandb login`, or work without the service: WANDB_MODE=offline"
    try:
        if not key and requests.utils.get_netrc_auth(address) is None:
            return [
                Problem(f"log.to=wandb: there is no key for {redact(address)}", f"set {credentials}", _KEYS)
            ]
        answer = requests.post(
            f"{address.rstrip('/')}/graphql",
            json={"query": "query { viewer { id } }"},
            auth=("api", key) if key else None,
            timeout=TIMEOUT_S,
        )
    except (OSError, ValueError) as error:
        return _unreachable("wandb", "WANDB_BASE_URL", address, error, warn)
    return _judge("wandb", "WANDB_BASE_URL", address, answer, credentials, "viewer", warn)


def _unreachable(
    name: str, variable: str, address: str, error: Exception, warn: Callable[[str], None]
) -> list[Problem]:
    if isinstance(error, ValueError):  # no URL at all; no library's error of a connection is one
        what = f"log.to={name}: {variable}={redact(address)} is no address ({reason(error)})"
        return [Problem(what, "write one like http://HOST:5000", _KEYS)]
    warn(
        f"log.to={name}: nobody answers at {redact(address)} within {TIMEOUT_S:g} s ({reason(error)}); the "
        f"run goes on, and its records are logged once somebody does{proxy_remedy(address)}"
    )
    return []


def _judge(
    name: str,
    variable: str,
    address: str,
    answer: requests.Response,
    credentials: str,
    word: str,
    warn: Callable[[str], None],
) -> list[Problem]:
    """Judge an answer; that of the right service is JSON with a `word`."""
    where = f"log.to={name}: {redact(address)}"
    if answer.status_code in (401, 403) or (answer.ok and '"viewer":null' in answer.text.replace(" ", "")):
        return [
            Problem(f"{where} refuses the credentials ({answer.status_code})", f"set {credentials}", _KEYS)
        ]
    if answer.status_code >= 500:
        warn(f"{where} fails ({answer.status_code}): the run goes on, and its records are logged later")
        return []
    # A server without experiments answers {}.
    if not answer.ok or not (word in answer.text or answer.text.split() == ["{}"]):
        what = f"{where} ({variable}) is another service ({answer.status_code} {answer.reason})"
        return [Problem(what, f"correct {variable}{proxy_remedy(address)}", _KEYS)]
    return []
