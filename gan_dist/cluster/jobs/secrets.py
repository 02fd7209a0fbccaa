"""Secrets that would travel with a job, into what Ray logs and shows to everyone who has the token."""

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
"""Characters; a shorter value says nothing where it is found."""


def secrets_here() -> dict[str, str]:
    """Return this process's variables that hold secrets, going by their names."""
    held = os.environ.items()
    return {name: value for name, value in held if _VARIABLE.search(name) and len(value) >= _SHORTEST}


def require_no_secrets(texts: Iterable[tuple[str, str]], known: Mapping[str, str]) -> None:
    """Refuse texts that hold a secret.

    Args:
        texts: A name to say and the text, of each.
        known: Values of secrets, by the name to say instead.

    Raises:
        ClusterError: naming the text, and never what is in it.
    """
    for name, text in texts:
        if what := _secret_in(text, known):
            raise ClusterError(
                f"{name} holds {what}: what a job is called with is shown to all who may list jobs, and kept "
                "in Ray's files. Set it as a variable of the nodes instead, before `ray start`: the usual "
                "AWS variables for a store, and any, with search.optuna_storage=env:NAME, for a database"
            )


def keep_credentials_from_trials() -> None:
    """Let Ray Tune not copy this process's AWS credentials into the runtime environment of every trial.

    Ray 2.60 does that; it logs runtime environments (`runtime_env_agent.log`) and its dashboard shows them.
    Nodes have credentials of their own.
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
