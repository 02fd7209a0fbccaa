"""Errors of Ray's tasks: the user's error in them, as if it had been raised here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayTaskError

from gan_dist.errors import GanDistError


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the user's error that made a task fail instead of Ray's, which is of both kinds.

    Ray takes one of its own that is handed to an actor for a failure of that call.

    Raises:
        GanDistError: what a task raised.
        RayTaskError: another failure of a task, as it came.
    """
    try:
        yield
    except RayTaskError as error:
        raise _cause(error) from None


def _cause(error: BaseException) -> BaseException:
    """Return the user's error that made a task fail, or else the failure itself."""
    found: BaseException | None = error
    while found is not None:
        inner = getattr(found, "cause", None) or found.__cause__
        if isinstance(inner, GanDistError) and not isinstance(inner, RayTaskError):
            # Ray Data adds advice for its own callers to the message.
            inner.args = (str(inner).partition("\nFailed to apply")[0],)
            return inner
        found = inner
    return error
