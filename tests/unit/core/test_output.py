"""Output that cannot be written, in whatever way, and what writes it goes on all the same."""

from __future__ import annotations

import array
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_dist.core.interrupts import INTERRUPTED

WRITER = """
import logging, sys
import typer
from pathlib import Path
from gan_dist.core.console import CountProgress, LiveConsole
from gan_dist.core.output import ignore_failing_output, output_error

ignore_failing_output()
for _ in range(3):
    print("printed")
    sys.stderr.write("written")
    typer.echo("echoed " * 2000)
    typer.echo("echoed", err=True)
    logging.getLogger("gan_dist").warning("logged")
    with LiveConsole() as console, CountProgress(10, "images") as progress:
        console.print("shown")
        progress.update(0)
        progress.update(10)
    sys.stdout.flush()
Path(sys.argv[1]).write_text(str(output_error()))
"""


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def gone_terminal() -> int:
    master, terminal = pty.openpty()
    os.close(master)
    return terminal


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.fixture(params=[closed_pipe, gone_terminal, full_disk])
def failing(request: pytest.FixtureRequest) -> Iterator[int]:
    output = request.param()
    yield output
    os.close(output)


def test_output_that_fails_decides_over_nothing(failing: int, tmp_path: Path) -> None:
    env = {**os.environ, "TERM": "xterm"}
    done = tmp_path / "done"
    command = [sys.executable, "-c", WRITER, str(done)]
    process = subprocess.run(command, stdout=failing, stderr=failing, env=env, check=False)
    assert process.returncode == 0
    full = os.path.samestat(os.fstat(failing), Path("/dev/full").stat())
    assert ("No space left" in done.read_text()) == full


@pytest.mark.parametrize("arguments", [["train", "--schema"], ["--help"], ["train", "digit"]])
def test_a_command_whose_reader_is_gone_ends_quietly_with_its_exit_code(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "gan_dist", *arguments]
    output = closed_pipe()
    expected = subprocess.run(command, capture_output=True, text=True, check=False)
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    os.close(output)
    assert (done.returncode, done.stderr) == (expected.returncode, expected.stderr)
    assert done.returncode == (2 if "digit" in arguments else 0)


def test_a_full_disk_behind_the_output_is_named() -> None:
    command = [sys.executable, "-m", "gan_dist", "train", "--schema"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "gan-dist: a part of the output could not be written: No space left on device\n"


def test_closed_output_is_no_file_that_the_command_opens() -> None:
    code = "from gan_dist.core.output import ignore_failing_output; ignore_failing_output(); "
    code += "import sys; print('out'); print('err', file=sys.stderr)"
    shell = f'exec {sys.executable} -c "{code}" >&- 2>&-'
    assert subprocess.run(shell, shell=True, check=False).returncode == 0


STUCK = """
import sys
from gan_dist.core.interrupts import INTERRUPTED, stop_requests
from gan_dist.core.output import ignore_failing_output
ignore_failing_output()
with stop_requests() as requested:
    while not requested.is_set():
        print("x" * 1000)
    sys.stdout.flush()
sys.exit(INTERRUPTED)
"""


def waiting(pipe: int) -> int:
    """Return the number of bytes that a pipe holds."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def test_a_reader_that_does_not_read_delays_no_stop() -> None:
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=writer)
    os.close(writer)
    try:
        held = -1
        while not 0 < waiting(reader) == held:  # the pipe is not full yet
            assert process.poll() is None
            held = waiting(reader)
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == INTERRUPTED
    finally:
        process.kill()
        process.wait()
        os.close(reader)
