"""What Prometheus reads at /metrics.

- A registry a service, not the process's: two services in one process, as in tests, do not add up.
- `endpoint` is the route's template (`/v1/items/{item_id}`), and `other` for what is no route: callers cannot invent labels.
- What serves is read when it is asked for, so a swap shows at once and needs no hook.

Not covered: several processes behind one port; each is scraped by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from serving.live import Live

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class _Model:
    """Which version serves: `miss_model_info`, `miss_model_items`, `miss_ready`."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        ready = self._live.ready
        yield GaugeMetricFamily("miss_ready", "1 where a bundle serves", value=float(ready))
        if ready:
            engine = self._live.engine
            about = GaugeMetricFamily("miss_model_info", "The version that serves", labels=["version", "digest"])
            about.add_metric([engine.version, engine.digest], 1.0)
            yield about
            yield GaugeMetricFamily("miss_model_items", "Items that it can answer with", value=float(engine.n_items))


class Metrics:
    """Counters of one service; other parts of it may register their own with `registry`."""

    def __init__(self, live: Live) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "miss_requests", "Requests answered", ["endpoint", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "miss_request_seconds",
            "From a request's first byte to its answer",
            ["endpoint"],
            registry=self.registry,
            buckets=SECONDS,
        )
        self.batches = Histogram(
            "miss_batch_size", "Users in one call of the graph", registry=self.registry, buckets=BATCHES
        )
        self.waiting = Gauge("miss_queue_depth", "Users waiting for the graph", registry=self.registry)
        self.popular = Counter(
            "miss_popular_answers", "Answers of what is popular, to users nothing is known of", registry=self.registry
        )
        self.registry.register(_Model(live))  # type: ignore[arg-type]
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)
