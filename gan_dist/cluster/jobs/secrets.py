"""Secrets that must not travel with a job: Ray logs its command and shows it to all who have the token."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

from gan_dist.core.errors import ClusterError
from gan_dist.core.storage.redaction import holds_secret

_WORDS = "secret|password|passwd|pass|token|apikey|api_key|access_key|private_key"
_VARIABLE = re.compile(rf"(?i)(?:^|_)(?:{_WORDS})(?:_id)?$")
_SETTING = re.compile(rf"(?i)://[^\s]*[?&][^=&]*(?:{_WORDS}|signature)[^=&]*=[^&\s]")
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")
_SHORTEST = 8
"""Characters; a shorter value may occur anywhere by chance."""


def secrets_here() -> dict[str, str]:
    """Return this process's environment variables whose names are those of secrets."""
    variables = os.environ.items()
    return {name: value for name, value in variables if _VARIABLE.search(name) and len(value) >= _SHORTEST}


def require_no_secrets(texts: Iterable[tuple[str, str]], known: Mapping[str, str]) -> None:
    """Raise a ClusterError that names a text that holds a secret: a `known` value, or what looks like one."""
    for name, text in texts:
        if secret := _secret_in(text, known):
            raise ClusterError(
                f"{name} holds {secret}, which all who may list jobs would see, and Ray's files keep",
                "set it as a variable of the nodes instead, before `ray start`: the usual AWS variables for "
                "a store, and any, with search.optuna_storage=env:NAME, for a database",
            )


def keep_credentials_from_trials() -> None:
    """Stop Ray Tune from copying this process's AWS credentials into every trial's runtime environment.

    Ray 2.60 logs runtime environments (`runtime_env_agent.log`) and shows them on its dashboard. Nodes have
    credentials of their own.
    """
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.difference_update(
        {name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    )


def _secret_in(text: str, known: Mapping[str, str]) -> str | None:
    for name, value in known.items():
        if value in text:
            return f"the value of {name}"
    if holds_secret(text):
        return "a URL with a password"
    if _SETTING.search(text):
        return "a URL with a secret among its settings"
    return "the id of an AWS key" if _AWS_KEY.search(text) else None
