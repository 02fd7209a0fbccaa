"""Ports at which nobody listens, for those who are about to, or for nobody."""

from __future__ import annotations

import random
import socket
from contextlib import suppress


def free_ports(count: int) -> list[int]:
    """Return ports that nobody takes before a server does, which may bind some of them many seconds later.

    They are none that the kernel hands out (from 32768) and none of Ray's workers' (up to 19999).
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(20000, 32768), 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError("no ports are free")


def free_port() -> int:
    """Return one of them."""
    return free_ports(1)[0]
