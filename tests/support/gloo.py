"""Run a function on real gloo ranks, each a process of its own, on this machine."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

PRELOADED = ["__main__", "torch.distributed", "gan_dist.training.loop", "gan_dist.search.plan"]
PRELOADED += ["pytest", "hypothesis", "tests.support.faults"]
# What training imports at its first record and its first evaluation.
PRELOADED += ["torch.utils.tensorboard", "scipy.linalg"]
"""What ranks import, for four seconds each, unless the server that they are forked from has done it."""
_GRACE_S = 1.0  # how long a failure waits for the other ranks': the first to speak is often not the cause


def run_gloo(fn: Callable[..., Any], world_size: int, *args: Any, timeout_s: float = 300.0) -> list[Any]:
    """Call `fn(*args)` on `world_size` ranks with torch.distributed initialised; the results by rank.

    `fn` is importable (module level), and arguments and results are picklable and travel by value. Each rank
    has one thread. Raises RuntimeError with the tracebacks of the ranks that failed, TimeoutError after
    `timeout_s`; no rank survives the call.
    """
    # Later ranks start in milliseconds, without this process's threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # By value: multiprocessing's own pickler would send tensors as shared memory that dies with its rank.
    call = pickle.dumps((fn, args))
    results: dict[int, Any] = {}
    failures: list[str] = []
    waiting: dict[Connection, int] = {}
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank in range(world_size):
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_rank,
                    args=(sender, call, rank, world_size, str(Path(folder) / "store"), timeout_s),
                    daemon=True,
                )
                process.start()
                sender.close()
                processes.append(process)
                waiting[receiver] = rank
            deadline = time.monotonic() + timeout_s
            while waiting:
                ready = wait([*waiting], timeout=max(0.0, deadline - time.monotonic()))
                if not ready:
                    break
                for receiver in [each for each in waiting if each in ready]:
                    rank = waiting.pop(receiver)
                    with receiver:
                        succeeded, value = _receive(receiver)
                    if succeeded:
                        results[rank] = value
                    else:
                        failures.append(f"rank {rank} failed: {value}")
                        deadline = min(deadline, time.monotonic() + _GRACE_S)
            if failures:
                raise RuntimeError("\n".join(failures))
            if waiting:
                raise TimeoutError(f"ranks {sorted(waiting.values())} did not finish within {timeout_s} s")
            for process in processes:
                process.join(timeout=10)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
                process.close()
            for receiver in waiting:
                receiver.close()
    return [results[rank] for rank in range(world_size)]


def _receive(receiver: Connection) -> tuple[bool, Any]:
    try:
        succeeded, value = pickle.loads(receiver.recv_bytes())
    except EOFError:
        return False, "it died without a word"
    return succeeded, value


def _rank(sender: Connection, call: bytes, rank: int, world_size: int, store: str, timeout_s: float) -> None:
    try:
        # The host's name may resolve to an address that is not this machine's.
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        import torch
        import torch.distributed as dist

        from gan_dist.training.precision import tune_process

        torch.set_num_threads(1)
        tune_process(torch.device("cpu"))  # a step by itself would import PyTorch's compiler
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        fn, args = pickle.loads(call)
        answer = pickle.dumps((True, fn(*args)))
        dist.barrier()  # nobody leaves while a slower rank still talks to it
        dist.destroy_process_group()
    except BaseException:
        answer = pickle.dumps((False, traceback.format_exc()))
    with sender:
        sender.send_bytes(answer)
