"""What a search spends on a cluster: the time of its trials' GPUs and of all nodes, charged to its ledger."""

from __future__ import annotations

import time
from collections.abc import Callable

from gan_dist.cluster.nodes.resources import cluster_nodes
from gan_dist.search.budget import Ledger, Reached, price_of, read_prices

NODES_S = 10.0
"""Seconds after which the nodes, which may come and go, are listed again."""
CHARGE_S = 0.5


class Spending:
    """Charges a search's ledger while trials run, and ends the search at its budget.

    Args:
        ledger: The search's ledger.
        images: Returns the images that all trials have trained with.
        gpus: GPUs of a trial.
        prices: The file of `search.prices`; None for none.
    """

    reached: Reached | None = None
    """The limit that ended the search; None if none has."""

    def __init__(self, ledger: Ledger, images: Callable[[], int], gpus: float, prices: str | None) -> None:
        self._ledger, self._images, self._gpus, self._source = ledger, images, gpus, prices
        self._prices = read_prices(prices) if prices else {}
        self._listed_at = self._charged_at = -float("inf")
        self._dollars_per_hour = 0.0

    def check(self, runs: int = 0, more_images: int = 0) -> bool:
        """Charge the time since the last call; return whether the budget is reached.

        From now on `runs` trials take place. `more_images` were trained with besides those of the trials.
        Calls that follow each other closely charge nothing.

        Raises:
            ConfigError: the type of a node has no price.
        """
        now = time.monotonic()
        if self._source and now - self._listed_at >= NODES_S:
            self._listed_at = now
            nodes = [(f"{node.instance} {node.group}".strip(), node.address) for node in cluster_nodes()]
            self._dollars_per_hour = price_of(nodes, self._prices, self._source)
        if now - self._charged_at >= CHARGE_S:
            self._charged_at = now
            self._ledger.charge(runs * self._gpus, self._dollars_per_hour)
        self.reached = self.reached or self._ledger.reached(self._images() + more_images)
        return self.reached is not None
