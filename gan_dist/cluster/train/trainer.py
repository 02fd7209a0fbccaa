"""Ray Train's trainer without its helper processes: each imports Ray Train, and the workers wait for them.

It changes private parts of Ray 2.60; the tests that train under Ray fail with a Ray that has others.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import ray
from ray._private import auto_init_hook
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup as RayWorkerGroup


class Trainer(TorchTrainer):
    """Ray Train's trainer without its five helper processes, for which the workers would wait.

    The controller runs in this process. An actor that frees the workers' resources when the controller dies
    is started only for a controller in an actor, since the resources of a job end with it. There are no
    datasets to manage; the driver requests nodes itself.
    """

    _cancelled = False
    _running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def cancel(self) -> None:
        """Make `fit`, which another thread is in, kill the workers and raise asyncio.CancelledError soon.

        It does so at once while the workers train; while they start, once they have started.
        """
        self._cancelled = True
        if self._running is not None:
            loop, task = self._running
            with suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(task.cancel)

    def _create_default_callbacks(self) -> list[Any]:
        in_driver = ray.get_runtime_context().get_actor_id() is None
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback) if in_driver else (DatasetsCallback,)
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]  # of the older API
        return [one for one in callbacks if not isinstance(one, left_out)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # the driver reports failures
        # A controller that outlives the connection must not start a cluster of its own.
        auto_init_hook.enable_auto_connect = False
        policy: Any = _ScalingPolicy
        controller: Any = _Controller(**{**arguments, "scaling_policy": policy(self.scaling_config)})
        asyncio.run(self._run(controller))
        return controller.get_result()

    async def _run(self, controller: _Controller) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running = asyncio.get_running_loop(), task
        if self._cancelled:
            task.cancel()
        await controller.run()


class _ScalingPolicy(FixedScalingPolicy):
    """A fixed number of workers, of which no actor for autoscaling is told."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class _TrainGroup(RayWorkerGroup):
    """Ray Train's worker group, for a controller that is no actor."""

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
        return dict(custom_runtime_env)

    def _init_train_context_on_workers(
        self, workers: list[Any], sync_actor: Any, train_context_args: dict[str, list[Any]]
    ) -> None:
        ray.get(
            [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=sync_actor,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[index] for name, values in train_context_args.items()},
                )
                for index, worker in enumerate(workers)
            ]
        )


class _Controller(TrainController):
    worker_group_cls = _TrainGroup

    async def run(self) -> None:
        """Run until the training has ended; if it is cancelled, kill the workers."""
        try:
            await super().run()  # type: ignore[no-untyped-call]
        except asyncio.CancelledError:
            group = self.get_worker_group()
            if group is not None and (state := group._worker_group_state) is not None:
                for actor in (*(worker.actor for worker in state.workers), state.sync_actor):
                    ray.kill(actor)
                state.placement_group_handle.shutdown()
            raise
