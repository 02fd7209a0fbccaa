"""Keys that a class names, such as `model.settings.depth`: read by the class's own pydantic model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gan_dist.config.fields import describe_allowed, format_value
from gan_dist.config.section import ConflictError, Section
from gan_dist.core.errors import ConfigError, Problem, closest

Settings = TypeVar("Settings", bound=Section)


def read_settings(kind: type[Settings], given: Mapping[str, object], section: str, owner: str) -> Settings:
    """Return an object of `kind` with the values of a section of settings.

    Args:
        kind: The class's model.
        given: Values by name.
        section: The section's key, such as `model.settings`.
        owner: What has these settings, in a message: `model.name=stylegan2`.

    Raises:
        ConfigError: there is no such setting, or its value is refused; with all problems.
    """
    if not (isinstance(kind, type) and issubclass(kind, Section)):
        what = f"{owner}: its Settings are {kind!r}, no class that derives from gan_dist.Section"
        raise ConfigError(what, "docs/extend.md has an example", keys=(section,))
    try:
        return kind.model_validate_json(json.dumps(dict(given)), strict=True)
    except ValidationError as error:
        problems = [_problem(kind, given, section, owner, one) for one in error.errors()]
        raise ConfigError(list({problem.keys: problem for problem in reversed(problems)}.values())) from None


def _problem(
    kind: type[Section], given: Mapping[str, object], section: str, owner: str, error: ErrorDetails
) -> Problem:
    """Return a pydantic error as a problem of a configuration key."""
    inner = error.get("ctx", {}).get("error")
    if isinstance(inner, ConflictError):
        return inner.problem
    if not error["loc"]:
        return Problem(f"{section}: {error['msg']}", keys=(section,))
    name, known = str(error["loc"][0]), list(kind.model_fields)
    key = f"{section}.{name}"
    if error["type"] == "missing":
        return Problem(f"{key} is missing; {owner} needs it", keys=(key,))
    if name not in known:
        near = closest(name, known)
        listed = f"it has {', '.join(known)}" if known else "it has none"
        return Problem(
            f"{key}: {owner} has no such setting", f"the nearest is {near}" if near else listed, (key,)
        )
    schema = kind.model_json_schema()["properties"][name]
    allowed = describe_allowed(schema) if "$ref" not in schema else error["msg"]
    return Problem(f"{key} must be {allowed}, not {format_value(given[name])}", keys=(key,))
