"""A Ray cluster of two nodes with a core each on this machine, as a test wants one: beside others, with what a machine has once
(ports, Ray's folder) of its own.

A job that is sent to a cluster asks its node's folder for the cluster's address, and where none is written there it takes that of
any cluster on the machine.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@contextlib.contextmanager
def two_nodes(**head: Any) -> Iterator[Any]:
    """Within a cluster, as `ray.cluster_utils.Cluster`; skips where Ray is not installed. head: more for its first node."""
    pytest.importorskip("ray", reason="Ray is not installed; pip install '.[ray]' brings it")
    from ray.cluster_utils import Cluster

    # a short path: sockets are in it
    own = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)
    with own as folder, pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        first = {"num_cpus": 1, "include_dashboard": False, "dashboard_agent_listen_port": 0, "temp_dir": folder}
        nodes = Cluster(initialize_head=True, head_node_args=first | head)
        Path(folder, "ray_current_cluster").write_text(nodes.address)
        try:
            nodes.add_node(num_cpus=1)
            yield nodes
        finally:
            nodes.shutdown()
