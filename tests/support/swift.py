"""OpenStack Swift by S3's interface, for tests: an object store that checks signatures and clocks.

`make swift` installs it into `.venv-swift`. Objects are in its memory.
"""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.heads import ROOT
from tests.support.ports import free_ports
from tests.support.servers import wait_for

PROGRAMS = ROOT / ".venv-swift" / "bin"
INSTALLED = ROOT / ".venv-swift" / ".installed"
ABSENT = "Swift is not installed: make swift"
AHEAD_S = 1200
KEYS = {
    "AWS_ACCESS_KEY_ID": "test:tester",
    "AWS_SECRET_ACCESS_KEY": "secret-that-must-not-be-shown",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
RINGS = """
import sys
from swift.common.ring import RingBuilder
for name, port in zip(("account", "container", "object"), sys.argv[1:]):
    ring = RingBuilder(1, 1, 1)  # 2 partitions, 1 replica
    place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "one"}
    ring.add_dev({**place, "weight": 1.0})
    ring.rebalance(seed=1)
    ring.get_ring().save(f"{name}.ring.gz")
"""
AHEAD = """
import runpy, sys, time
clock, seconds = time.time, float(sys.argv[1])
time.time = lambda: clock() + seconds
sys.argv[:] = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a program whose clock is ahead."""
SERVER = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
user = {user}
log_level = ERROR
"""
NODE = """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{program}
"""
PROXY = f"""
[pipeline:main]
pipeline = catch_errors gatekeeper listing_formats bulk s3api tempauth slo dlo proxy-server
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {KEYS["AWS_SECRET_ACCESS_KEY"]} .admin
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""
FILTERS = ("catch_errors", "gatekeeper", "listing_formats", "bulk", "slo", "dlo")


@dataclass(frozen=True)
class Swift:
    """A running store: its URL, and one where its clock is ahead by `AHEAD_S`."""

    url: str
    url_ahead: str


@contextmanager
def swift_server(folder: Path) -> Iterator[Swift]:
    """Run Swift in processes of its own, with its files in a folder."""
    ports = dict(zip(("account", "container", "object", "proxy", "ahead"), free_ports(5), strict=True))
    (folder / "devices" / "one").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = test\n")
    numbers = [str(port) for port in ports.values()][:3]
    subprocess.run([PROGRAMS / "python", "-c", RINGS, *numbers], cwd=folder, check=True, timeout=60)
    for name, port in ports.items():
        text = SERVER.format(port=port, folder=folder, user=getpass.getuser())
        if name in ("proxy", "ahead"):
            text += PROXY + "".join(f"[filter:{each}]\nuse = egg:swift#{each}\n" for each in FILTERS)
        else:
            text += NODE.format(name=name, program="mem_object" if name == "object" else name)
        (folder / f"{name}.conf").write_text(text)
    with ExitStack() as running:
        processes = [running.enter_context(_server(name, folder)) for name in ports]
        wait_for(lambda: all(map(_listens, ports.values())), processes, [*folder.glob("*.log")])
        yield Swift(f"http://127.0.0.1:{ports['proxy']}", f"http://127.0.0.1:{ports['ahead']}")


@contextmanager
def _server(name: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    python, program = PROGRAMS / "python", PROGRAMS / f"swift-{name.replace('ahead', 'proxy')}-server"
    ahead = str(AHEAD_S if name == "ahead" else 0)
    command = [str(python), "-c", AHEAD, ahead, str(program), str(folder / f"{name}.conf")]
    environment = {**os.environ, "SWIFT_DIR": str(folder)}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
