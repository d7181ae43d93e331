"""Counters -> prometheus-client's families -> the text format that was requested (Prometheus or OpenMetrics)."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.observability.metrics.catalogue import METRICS
from gateway.observability.metrics.catalogue import Metric as Described
from gateway.observability.metrics.counters import Labels, Snapshot, Value

_NANO: Final = 10**9


class _SnapshotCollector(Collector):
    """Gives the metric families of one snapshot to prometheus-client, for one answer."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """Yields every metric of the catalogue, also without a value: an alert may refer to it from the start."""
        for described in METRICS.values():
            series = self._snapshot.get(described.name, {})
            if described.name == "gateway_build_info":
                series = {(__version__, platform.python_version()): 1}
            yield _family(described, series)


def render(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """Returns the body and its content type, in the format that `accept` requests."""
    encode, content_type = choose_encoder(accept)
    return encode(_SnapshotCollector(snapshot)), content_type


def _family(described: Described, series: dict[Labels, Value]) -> Metric:
    family: CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily
    name, text, labels = described.name, described.text, described.labels
    if described.kind == "histogram":
        family = HistogramMetricFamily(name, text, labels=labels)
        for values, value in series.items():
            if isinstance(value, list):
                family.add_metric(values, list(_cumulative(described.buckets, value)), value[-1])
        return family
    family = (CounterMetricFamily if described.kind == "counter" else GaugeMetricFamily)(name, text, labels=labels)
    for values, value in series.items():
        if not isinstance(value, list):
            family.add_metric(values, value / _NANO if name.endswith("_usd_total") else value)
    return family


def _cumulative(bounds: tuple[float, ...], value: list[int | float]) -> Iterator[tuple[str, float]]:
    count = 0.0
    for bound, more in zip((*bounds, float("inf")), value, strict=False):
        count += more
        yield ("+Inf" if bound == float("inf") else repr(bound)), count
