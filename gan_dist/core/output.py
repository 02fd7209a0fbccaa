"""Standard output and error that may fail: what a command does must not depend on who reads what it says."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any, TextIO

from gan_dist.core.interrupts import stop_requested

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
"""Errors that say that nobody reads any more: a closed pipe, a terminal that is gone."""
POLL_S = 0.5


class _Output(io.FileIO):
    """A file whose errors are kept, not raised."""

    error: OSError | None = None
    """The last one that was no end of the reader: a full disk's."""

    def write(self, data: Any, /) -> int:
        """Write as much as can be written at once, and return the number of bytes; on an error, that of all.

        If the reader does not read, as a terminal after Ctrl-S, this waits for it until a stop is requested.
        """
        part = memoryview(data).cast("B")
        try:
            while True:
                if select.select([], [self], [], POLL_S)[1]:
                    # A pipe that can be written has room for so many bytes.
                    if written := super().write(part[: select.PIPE_BUF]):
                        return written
                elif stop_requested():
                    return len(part)
        except OSError as error:
            if error.errno not in GONE:
                self.error = error
        return len(part)


def ignore_failing_output() -> None:
    """Let writing to standard output and standard error never fail, in whatever writes to them."""
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is None:  # it was closed when the process began
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  # for the process's life
        elif isinstance(stream, io.TextIOWrapper) and type(_raw(stream)) is io.FileIO:
            stream.flush()
            output = _Output(stream.fileno(), "w", closefd=False)
            replaced = io.TextIOWrapper(
                io.BufferedWriter(output),
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, replaced)


def output_error() -> OSError | None:
    """Return the last error of standard output that was not a reader's end, or None."""
    output = _raw(sys.stdout)
    return output.error if isinstance(output, _Output) else None


def _raw(stream: TextIO) -> object:
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)
