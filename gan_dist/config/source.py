"""Where a configuration's text comes from: a preset, a file or a URI."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from gan_dist.core.errors import ConfigError, Problem, closest

PRESETS = Path(__file__).parents[1] / "presets"
MAX_BYTES = 1024 * 1024


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets in the package, sorted."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def stem(source: str) -> str:
    """Return the name of a preset or file, without its suffix."""
    return printable(PurePosixPath(urlsplit(source).path if "://" in source else source).stem)


def printable(name: str) -> str:
    """Return a name on one line; names of files need not be UTF-8."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in name)


def read_text(source: str, label: str) -> str:
    """Return the text of a preset, a file or a URI, or raise an error; `label` names it there."""

    def refusal(what: str, remedy: str = "") -> ConfigError:
        return ConfigError([Problem(what, remedy, where=label)])

    try:
        if "://" in source:
            # The storage layer brings pyarrow, which presets and local files should not wait for.
            from gan_dist.core import storage

            content = storage.read_bytes(source)
        elif not source:
            raise FileNotFoundError
        else:
            from gan_dist.core.storage.durable import require_file

            path = PRESETS / f"{source}.yaml" if source in preset_names() else Path(source)
            require_file(str(path))
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise refusal(f"this is larger than {MAX_BYTES} bytes, which no configuration is")
        return content.decode()
    except UnicodeDecodeError as error:
        raise refusal(f"this is not UTF-8 text (byte {error.start})") from error
    except IsADirectoryError as error:
        raise refusal("this is a directory, not a YAML file") from error
    except FileNotFoundError as error:
        presets = preset_names()
        if stem(source) in presets:
            raise refusal("there is no such file", f"the preset is called {stem(source)}") from error
        if "/" in source or source.endswith((".yaml", ".yml")):
            raise refusal("there is no such file") from error
        remedy = f"the presets are {', '.join(presets)}; images are a folder, an archive or a URI"
        if near := closest(source, presets):
            remedy += f"; the nearest is {near}"
        raise refusal("there is no preset or file of this name", remedy) from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise refusal(f"this file cannot be read: {reason}") from error
