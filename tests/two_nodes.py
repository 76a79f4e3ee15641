"""A Ray cluster of two nodes with a core each on this machine, as a test wants one: beside others, each with ports of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def two_nodes(**head: Any) -> Iterator[Any]:
    """Within a cluster, as `ray.cluster_utils.Cluster`; skips where Ray is not installed. head: more for its first node."""
    pytest.importorskip("ray", reason="Ray is not installed; pip install '.[ray]' brings it")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        first = {"num_cpus": 1, "include_dashboard": False, "dashboard_agent_listen_port": 0}
        nodes = Cluster(initialize_head=True, head_node_args=first | head)
        try:
            nodes.add_node(num_cpus=1)
            yield nodes
        finally:
            nodes.shutdown()
