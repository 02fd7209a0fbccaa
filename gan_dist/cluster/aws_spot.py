"""EC2 nodes on spot, and on demand where EC2 has no spot instance to give: the provider of cluster.yaml.

Ray's autoscaler (2.60) requests the node type of the highest priority again and again when EC2 refuses it,
and never tries a second type; so this provider makes the second choice, for the same node type.
"""

from __future__ import annotations

import logging
from typing import Any

from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException

logger = logging.getLogger(__name__)

# EC2's error codes where it has no spot instance, at any price or at the one that was offered, and where the
# account's quota of spot instances is used up (EC2 API reference, "Error codes").
NO_SPOT = frozenset({"InsufficientInstanceCapacity", "SpotMaxPriceTooLow", "MaxSpotInstanceCountExceeded"})


class SpotFirst(AWSNodeProvider):
    """Ray's AWS provider; nodes that should be on spot are started on demand where there is none."""

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Start up to `count` instances, on demand if no availability zone has a spot instance.

        Raises:
            NodeLaunchException: EC2's answer, if it refuses instances on demand as well.
        """
        try:
            created: dict[str, Any] = super().create_node(node_config, tags, count)
        except NodeLaunchException as refused:
            if "InstanceMarketOptions" not in node_config or refused.category not in NO_SPOT:
                raise
            logger.warning("no spot instances (%s): starting %d on demand", refused.category, count)
            on_demand = {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}
            created = super().create_node(on_demand, tags, count)
        return created
