"""What a worker's process needs around it: memory, threads, and the interface by which its peers reach it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray.util
from ray.train.torch import TorchConfig

from gan_dist.config import ScaleConfig
from gan_dist.core import host

COLLECTIVE_S = 600
"""Seconds after which a worker that waits for another gives up. One of them may be writing files or comparing
features meanwhile; a node that is gone is noticed by Ray, sooner."""

_TorchBackend: Any = TorchConfig().backend_cls


def variables(scale: ScaleConfig) -> dict[str, str]:
    """Return the environment variables that a worker's process is started with."""
    return {
        # Ray runs the loop in a thread, and glibc returns the memory of a thread's own arena to the kernel
        # whatever `keep_freed_memory` says.
        "MALLOC_ARENA_MAX": "1",
        # Ray's own choice for actors is 1.
        "OMP_NUM_THREADS": str(scale.threads),
    }


@dataclass
class ReachableTorch(TorchConfig):
    """Ray Train's setting up of torch.distributed, among workers that can reach each other."""

    timeout_s: int = COLLECTIVE_S

    @property
    def backend_cls(self) -> type[_Backend]:
        """What sets it up."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if len(set(worker_group.execute(ray.util.get_node_ip_address))) > 1:
            worker_group.execute(use_reachable_interface)
        super().on_start(worker_group, backend_config)


def use_reachable_interface() -> None:
    """Let gloo and NCCL use the interface by which other nodes reach this one; a user's choice stays."""
    address = ray.util.get_node_ip_address()
    for variable, interface in interface_variables(address, host.own_address(), host.interfaces()).items():
        os.environ.setdefault(variable, interface)


def interface_variables(address: str, named: str | None, interfaces: Mapping[str, str]) -> dict[str, str]:
    """Return what to tell gloo and NCCL, by environment variable; nothing where they find it by themselves.

    gloo takes the address that the host's name resolves to, which on many machines is that of the loopback.
    NCCL takes the first interfaces that it likes, with those of virtual bridges among them.

    Args:
        address: The address by which the other nodes reach this one.
        named: The address that the host's name resolves to, if any.
        interfaces: Every interface's address, by its name.
    """
    interface = next((name for name, its in interfaces.items() if its == address), None)
    if interface is None:
        return {}
    exactly = {"NCCL_SOCKET_IFNAME": f"={interface}"}
    return exactly if named == address else {"GLOO_SOCKET_IFNAME": interface, **exactly}
