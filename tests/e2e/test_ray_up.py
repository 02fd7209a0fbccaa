"""`ray up` and `ray down` of the on-premise file, over SSH, from a machine that is not in the cluster."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
import yaml

from tests.support.heads import BIN, ROOT, submit
from tests.support.hosts import PRIVATE, Host, host_environment, hosts, require_namespaces

FILE = ROOT / "jobs" / "cluster" / "on-premise.yaml"
SSHD = f"""
mount -t tmpfs tmpfs /run
mkdir /run/sshd {PRIVATE}/ssh
ssh-keygen -q -t ed25519 -N '' -f {PRIVATE}/ssh/key
exec /usr/sbin/sshd -D -e -f /dev/null -h {PRIVATE}/ssh/key -o PidFile=none -o StrictModes=no \\
    -o AuthorizedKeysFile={PRIVATE}/authorized_keys -o PasswordAuthentication=no \\
    -o 'SetEnv=TMPDIR={PRIVATE}/tmp RAY_TMPDIR={PRIVATE}/tmp'
"""


@contextmanager
def ssh_server(host: Host, key: str) -> Iterator[None]:
    """Run a host's SSH server, which lets root in by one key."""
    (host.folder / "authorized_keys").write_text(key)
    with (host.folder / "sshd.log").open("w") as log:
        server = subprocess.Popen(host.inside("sh", "-euc", SSHD), stdout=log, stderr=log)
    try:
        yield
    finally:
        server.terminate()
        server.wait(timeout=30)


def lay_environment(host: Host) -> None:
    """Let a host have this test's environment where `make install` makes one, which has nothing to do."""
    its = host.folder / "home" / "gan-dist" / ".venv"
    its.mkdir(parents=True)
    for part in ("bin", "lib", "pyvenv.cfg"):
        (its / part).symlink_to(BIN.parent / part)
    (its / ".installed").touch()


def until(seconds: float, done: Callable[[], bool]) -> None:
    """Wait until something is so, asked again every two seconds."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(2)


@pytest.mark.ray
@pytest.mark.soak
def test_ray_up_starts_every_host_over_ssh_and_ray_down_ends_them() -> None:
    require_namespaces()
    missing = [tool for tool in ("/usr/sbin/sshd", "ssh-keygen", "rsync") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install openssh-server openssh-client rsync")
    env = host_environment()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp"))
        names = ("head", "alpha", "beta", "desk")
        *nodes, desk = stack.enter_context(hosts(folder, *names))
        head, *workers = nodes
        desk.run("sh", "-ec", "mkdir ~/.ssh; ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519", env=env)
        for node in nodes:
            lay_environment(node)
            key = desk.folder / "home" / ".ssh" / "id_ed25519.pub"
            stack.enter_context(ssh_server(node, key.read_text()))

        file = yaml.safe_load(FILE.read_text())
        # Ray keeps its connections in /tmp, by the cluster's name: another session must not find these.
        file["cluster_name"] = f"gan-dist-{uuid.uuid4().hex[:8]}"
        file["provider"] |= {"head_ip": head.address, "worker_ips": [worker.address for worker in workers]}
        file["auth"]["ssh_user"] = "root"
        (desk.folder / "cluster.yaml").write_text(yaml.safe_dump(file))

        desk.run("sh", "-ec", "ray get-auth-token --generate > /dev/null", env=env)
        desk.run("ray", "up", "--yes", f"{PRIVATE}/cluster.yaml", env=env)
        token = (desk.folder / "home" / ".ray" / "auth_token").read_text()
        user = {**env, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        user |= {"RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265"}
        on_head = {**user, "PATH": f"{PRIVATE}/home/gan-dist/.venv/bin:{user['PATH']}"}

        def alive() -> set[str]:
            listed = head.run("ray", "list", "nodes", "--format=json", "--filter=state=alive", env=on_head)
            return {node["node_ip"] for node in json.loads(listed)}

        until(180, lambda: alive() == {node.address for node in nodes})
        for worker in workers:
            copied = worker.folder / "home" / ".ray" / "auth_token"
            assert copied.read_text() == token

        # From the desk, through the tunnel that `ray dashboard` holds open.
        command = desk.inside("ray", "dashboard", f"{PRIVATE}/cluster.yaml")
        tunnel = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(60, lambda: answers(desk, 8265))
        job = ["ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/train.py", "digits"]
        done = submit(desk.inside(*job, "--dry-run"), user)
        tunnel.terminate()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "placement: 2 workers" in done.stdout

        desk.run("ray", "down", "--yes", f"{PRIVATE}/cluster.yaml", env=env)
        # `ray down` ends Ray on the head; the others miss it, and end by themselves.
        until(180, lambda: not any(running(node, "raylet") for node in nodes))


def running(host: Host, program: str) -> bool:
    """Tell whether a process of this name runs on a host."""
    code = "import glob; print(*(open(path).read() for path in glob.glob('/proc/[0-9]*/comm')))"
    return program in host.run("python", "-c", code, env=host_environment())


def answers(host: Host, port: int) -> bool:
    """Tell whether something listens on a host's loopback."""
    code = f"import socket; print(socket.socket().connect_ex(('127.0.0.1', {port})))"
    return host.run("python", "-c", code, env=host_environment()) == "0\n"
