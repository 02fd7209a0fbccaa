"""A database that has the studies of searches: `search.optuna_storage`, whose URL is in no message."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, quote_plus

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage

from gan_dist.core.errors import StorageError
from gan_dist.core.storage.redaction import reason, redact

T = TypeVar("T")
ENV = "env:"
"""Begins what is no URL, but the name of an environment variable that has it."""
_DRIVERS = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "_mysql_connector": "mysql-connector-python",
}
_SCHEMES = "postgresql://user:password@host/database, mysql+pymysql://... or sqlite:////path/study.db"


@contextmanager
def plain_study_errors() -> Iterator[None]:
    """Raise a StorageError where a database fails in the midst of a search."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
        return
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
        # The message has the statement with its values, `orig` has not.
        said = reason(getattr(cause, "orig", None) or type(error)())
    # Out here, so that the error with the URL in it is no part of this one.
    what = f"the database of the search's study fails ({said})"
    raise StorageError(what, "look at the database", keys=("search.optuna_storage",))


def require_database(url: str) -> None:
    """Refuse what is not the URL of a database, or `env:NAME` of one; it is not connected to.

    Raises:
        StorageError: the URL, its kind or its variable is wrong, or the driver is not installed.
    """
    from sqlalchemy import create_engine

    _connected(_resolve(url), lambda url: create_engine(url).dispose())


def open_database(url: str, *, existing: bool = False) -> BaseStorage:
    """Return the storage of studies in a database; with `existing` one that has some.

    `url` is its URL, or `env:NAME`.

    Raises:
        StorageError: it cannot be reached or used; passwords are left out of the message.
    """

    def connect(url: str) -> BaseStorage:
        if existing:
            _require_studies(url)
        # Connections that were dropped while trials ran are noticed and made anew.
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})

    return _connected(_resolve(url), connect)


def _connected(url: str, connect: Callable[[str], T]) -> T:
    """Return what a call makes of a database; raise a StorageError without the URL where it fails."""
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    what, remedy = f"the database {redact(url)} (search.optuna_storage)", ""
    try:
        return connect(url)
    except NoSuchModuleError:
        what, remedy = f"{what} is of a kind that is not known", f"write a URL like {_SCHEMES}"
    except ArgumentError:
        what, remedy = "search.optuna_storage is not the URL of a database", f"write one like {_SCHEMES}"
    except ImportError as error:
        module = getattr(error.__cause__ or error, "name", None) or "of its driver"
        what, remedy = f"{what} needs the Python package {_DRIVERS.get(module, module)}", "install it"
    except SQLAlchemyError as error:
        what = f"{what} cannot be used ({_without_secrets(error, url)})"
        remedy = "start it, or correct the URL"
    except (RuntimeError, ValueError) as error:
        what = f"{what} cannot be used ({_without_secrets(error, url)})"
    # Out here, so that the error with the URL in it is no part of this one.
    raise StorageError(what, remedy, keys=("search.optuna_storage",))


def _require_studies(url: str) -> None:
    """Raise ValueError for a database without Optuna's tables, and for a file that SQLite would create."""
    from sqlalchemy import create_engine, inspect

    engine = create_engine(url)
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    if file and not Path(file).exists():
        raise ValueError("there is no such file")
    try:
        if not inspect(engine).has_table("studies"):
            raise ValueError("there are no studies in it")
    finally:
        engine.dispose()


def _without_secrets(error: Exception, url: str) -> str:
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    secrets: list[str | None] = [parsed.password]
    for given in parsed.query.values():
        secrets += (given,) if isinstance(given, str) else given
    text = reason(getattr(error, "orig", None) or error).replace(url, redact(url))
    for secret in secrets:
        for form in {secret, quote(secret), quote_plus(secret)} if secret else ():
            text = text.replace(form, "...")
    return text


def _resolve(url: str) -> str:
    if not url.startswith(ENV):
        return url
    written, url = url, os.environ.get(url.removeprefix(ENV), "")
    if not url:
        raise StorageError(
            f"search.optuna_storage={written} names a variable that is not set",
            "set it to the database's URL where this runs: for a job that is the head, before `ray start`",
            keys=("search.optuna_storage",),
        )
    return url
