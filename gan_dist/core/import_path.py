"""A user's own classes by import path, `package.module:Class`."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gan_dist.core.errors import ConfigError, UntrustedCodeError

PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


def is_import_path(name: str) -> bool:
    """Return whether a name is written as an import path, and not as one of the package's own."""
    return ":" in name


def require_trust(named: Mapping[str, str], trust: str | Collection[str], source: str) -> None:
    """Refuse code that a file chooses: files of others must not.

    Args:
        named: Values by configuration key, of which those that are import paths count.
        trust: The import paths that the user has allowed.
        source: What has this configuration, for the message.

    Raises:
        UntrustedCodeError: an import path is not allowed.
    """
    allowed = {trust} if isinstance(trust, str) else {*trust}
    needed = {key: path for key, path in named.items() if is_import_path(path) and path not in allowed}
    if needed:
        paths = [*dict.fromkeys(needed.values())]
        named_here = ", ".join(f"{key}={path}" for key, path in needed.items())
        raise UntrustedCodeError(
            f"{source} needs code of its maker's own, {named_here}",
            f"if you know and trust it, allow it: {' '.join(f'--trust {path}' for path in paths)}, or "
            f"gan_dist.load(..., trust={paths[0] if len(paths) == 1 else paths!r})",
            keys=tuple(needed),
        )


def load_object(key: str, path: str) -> Any:
    """Return what `path` names. Modules are also looked for in the working directory, after all others.

    Args:
        key: The configuration key whose value is `path`, for messages.
        path: `package.module:Class`.

    Raises:
        ConfigError: `path` is no import path, the module cannot be imported, or it has no such name.
    """
    if not re.fullmatch(PATTERN, path):
        raise ConfigError(f"{key}={path} is no import path", "write it as package.module:Class", keys=(key,))
    module, _, name = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # Ray's workers, too, look there
    try:
        found = getattr(importlib.import_module(module), name, None)
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, ImportError) else str(error)
        remedy = "mend it"
        if isinstance(error, ModuleNotFoundError):
            own = f"{module}.".startswith(f"{error.name}.")
            remedy = f"install {error.name} on every machine"
            remedy += ", or put its folder into PYTHONPATH there" if own else f", which {module} imports"
        what = f"{key}={path}: importing {module} failed ({reason}{_place(error)})"
        raise ConfigError(what, remedy, keys=(key,)) from error
    if found is None:
        raise ConfigError(f"{key}={path}: {module} has no class {name}", "correct the name", keys=(key,))
    return found


def load_subclass(key: str, path: str, base: type) -> Any:
    """Return the class that `path` names, which derives from `base`; for the rest see `load_object`.

    Raises:
        ConfigError: it does not derive from `base`, or leaves methods of it out; or what `load_object` says.
    """
    found = load_object(key, path)
    wanted = f"gan_dist.{base.__name__}"
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f"{key}={path} does not derive from {wanted}",
            f"write it as `class {path.partition(':')[2]}({wanted})`; docs/extend.md has an example",
            keys=(key,),
        )
    if absent := sorted(getattr(found, "__abstractmethods__", ())):
        raise ConfigError(
            f"{key}={path} lacks {', '.join(absent)}", f"define what {wanted} declares", keys=(key,)
        )
    return found


def _place(error: BaseException) -> str:
    """Return the file and line of the innermost frame of a user's own code, in parentheses' words."""
    frames = [one for one in traceback.extract_tb(error.__traceback__) if "importlib" not in one.filename]
    last = frames[-1] if frames else None
    own = last is not None and last.filename != __file__
    return f", {last.filename}:{last.lineno}" if last is not None and own else ""
