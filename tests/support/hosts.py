"""A cluster of several hosts on one machine, for tests.

A host is a process with namespaces of its own: network, mounts, processes, name. Its network card is `eth0`,
on a switch that it shares with the other hosts and with nothing else; its name resolves to 127.0.1.1, as
Debian sets it up, and no other name does; `/srv`, with the home in it, and `/dev/shm` are folders that the
other hosts do not see. All other files are shared, so that every host has this project's environment.

Nothing of it has a name outside: hosts of several test sessions do not meet, and all of it is gone with the
processes, which end when the test session does, however that ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.heads import ROOT, environment
from tests.support.s3 import KEYS

TOOLS = ("ip", "mount", "nsenter", "unshare")
NAMESPACES = ("--net", "--mount", "--pid", "--ipc", "--uts")
NETWORK = "10.0.0"
GATEWAY = f"{NETWORK}.254"
PRIVATE = "/srv"
STORE_PORT = 5000

HOLD = "exec 3<&0; echo up; cat <&3 >/dev/null & wait"
"""What keeps namespaces: it ends when its input is closed, and with it every process in them."""
SWITCH = f"ip link add br0 type bridge; ip address add {GATEWAY}/24 dev br0; ip link set br0 up; {HOLD}"
HOST = f"""
hostname "$1"
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' "$1" > "$2/hosts"
mount --bind "$2/hosts" /etc/hosts
sed 's/^hosts:.*/hosts: files/' /etc/nsswitch.conf > "$2/nsswitch.conf"
mount --bind "$2/nsswitch.conf" /etc/nsswitch.conf
sed 's#^root:.*#root:*:0:0::{PRIVATE}/home:/bin/bash#' /etc/passwd > "$2/passwd"
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2" {PRIVATE}
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
{HOLD}
"""


@dataclass(frozen=True)
class Host:
    """A host that is up: `inside` is how commands get there."""

    name: str
    address: str
    folder: Path
    """What `/srv` is on this host."""
    pid: int
    switch: int

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs another one on this host, in the repository."""
        return _inside(self.pid, "env", "-C", str(ROOT), *command)

    def run(self, *command: str, env: dict[str, str]) -> str:
        """Run a command on this host to its end; return what it prints."""
        return _checked(self.inside(*command), env)

    def pull_the_plug(self) -> None:
        """Cut this host off: whatever is sent to it, or by it, is lost without an answer."""
        _checked(_on_switch(self.switch, f"ip link set {self.name} down"))

    def plug_in(self) -> None:
        """Undo `pull_the_plug`."""
        _checked(_on_switch(self.switch, f"ip link set {self.name} up"))


def require_namespaces() -> None:
    """Skip a test where hosts cannot be made."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"hosts are made with {', '.join(missing)}: apt-get install iproute2 util-linux mount")
    if os.geteuid() != 0:
        pytest.skip("hosts are made of network namespaces, which root alone can make")
    probe = ["unshare", *NAMESPACES, "--fork", "ip", "link", "add", "br0", "type", "bridge"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this machine lets no network namespace with a bridge be made: {done.stderr.strip()}")


@contextmanager
def hosts(folder: str, *names: str) -> Iterator[tuple[Host, ...]]:
    """Run hosts that reach each other; the first has the address 10.0.0.1, and so on."""
    with ExitStack() as stack:
        switch = stack.enter_context(_held("--net", script=SWITCH))
        made = []
        for number, name in enumerate(names, start=1):
            own = Path(folder, name)
            for inner in ("home", "tmp"):
                (own / inner).mkdir(parents=True)
            arguments = (name, str(own))
            pid = stack.enter_context(_held("--mount-proc", *NAMESPACES, script=HOST, arguments=arguments))
            host = Host(name, f"{NETWORK}.{number}", own, pid, switch)
            _lay_cable(host)
            made.append(host)
        yield tuple(made)


def host_environment(**extra: str) -> dict[str, str]:
    """Return the environment of a login on a host."""
    return environment(f"{PRIVATE}/tmp", TMPDIR=f"{PRIVATE}/tmp", HOME=f"{PRIVATE}/home", **extra)


@contextmanager
def store_on(host: Host) -> Iterator[dict[str, str]]:
    """Run an S3 server with a bucket `bucket` on a host; yields what a user exports to use it."""
    env = {**KEYS, "AWS_ENDPOINT_URL": f"http://{host.address}:{STORE_PORT}"}
    command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", str(STORE_PORT)]
    path = host.folder / "store.log"
    with path.open("w") as log:
        server = subprocess.Popen(host.inside(*command), env=host_environment(), stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while "Running on" not in path.read_text():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the store did not start:\n{path.read_text()}")
            time.sleep(0.1)
        make = "import sys; from tests.support.s3 import make_bucket; make_bucket(*sys.argv[1:])"
        host.run(sys.executable, "-c", make, env["AWS_ENDPOINT_URL"], "bucket", env=host_environment())
        yield env
    finally:
        server.terminate()
        server.wait(timeout=30)


@contextmanager
def ray_cluster(
    head: Host, workers: tuple[Host, ...], cpus: int, extra: dict[str, str]
) -> Iterator[dict[str, str]]:
    """Run a Ray cluster whose head has no CPUs to give; yields what a user exports on the head to use it.

    It ends with its hosts.

    Args:
        head: Where the head runs, the dashboard and jobs' drivers with it.
        workers: The other nodes.
        cpus: CPUs of each of these, whatever the machine has.
        extra: Variables set on every node.
    """
    env = host_environment(**extra, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="hosts-" + os.urandom(16).hex())
    options = (f"--temp-dir={PRIVATE}/ray", f"--object-store-memory={200 * 2**20}")
    head.run("ray", "start", "--head", "--num-cpus=0", *options, env=env)
    # One after another: Ray gives a node 30 s to start, and here all start on the same cores.
    for worker in workers:
        join = f"--address={head.address}:6379"
        worker.run("ray", "start", join, f"--num-cpus={cpus}", *options, env=env)
    yield {**env, "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265"}


@contextmanager
def _held(*options: str, script: str, arguments: tuple[str, ...] = ()) -> Iterator[int]:
    """Run a script that holds namespaces; yields the id of its process."""
    command = ["unshare", *options, "--fork", "--kill-child", "sh", "-euc", script, "sh", *arguments]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        if holder.stdout.readline() != b"up\n":
            raise RuntimeError("the host did not start; what it says is on standard error")
        yield int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait(timeout=30)


def _lay_cable(host: Host) -> None:
    for command in (
        f"ip link add {host.name} type veth peer name eth0 netns {host.pid}",
        f"ip link set {host.name} master br0 up",
    ):
        _checked(_on_switch(host.switch, command))
    for command in (
        f"ip address add {host.address}/24 dev eth0",
        "ip link set eth0 up",
        f"ip route add default via {GATEWAY}",
    ):
        _checked(_inside(host.pid, *command.split()))


def _on_switch(switch: int, command: str) -> list[str]:
    return ["nsenter", f"--target={switch}", "--net", "--", *command.split()]


def _inside(pid: int, *command: str) -> list[str]:
    return ["nsenter", f"--target={pid}", *NAMESPACES, "--", *command]


def _checked(command: list[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout
