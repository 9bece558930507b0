"""Numbers of a running job for Prometheus: which there are, and how they are told while slices finish.

In: reports of slices, commits, the lengths of queues. Out: counters, gauges and histograms on a port of the driver
(prometheus_client), and on a Ray cluster through Ray's own exporter, where their names begin with `ray_`. The driver tells all
of them: what workers have to say comes with their slices. configs/grafana.json is a dashboard of these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from materia.base.errors import UserError
from pipeline.engine.messages import Report
from pipeline.engine.worker import Queue
from pipeline.pools import Pool

Labels = Mapping[str, str]


class Metric(NamedTuple):
    """`buckets`: upper bounds of a histogram's."""

    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

METRICS: dict[str, Metric] = {
    "clips": Metric("counter", "Clips that are finished, by outcome (kept, rejected) and reason.", ("outcome", "reason")),
    "stage_seconds": Metric("histogram", "Seconds of a worker that a clip takes, by stage.", ("stage",), _SECONDS),
    "slice_seconds": Metric("histogram", "Seconds of workers that a slice takes in all pools.", (), _SECONDS),
    "batch_rows": Metric("histogram", "Rows of a batch that a stage was given.", ("stage",), _ROWS),
    "worker_seconds": Metric("counter", "Seconds for which workers had work, by pool (its first stage).", ("pool",)),
    "workers": Metric("gauge", "Workers of a pool.", ("pool",)),
    "cards": Metric("gauge", "Cards that the workers of a pool book.", ("pool",)),
    "slices_waiting": Metric("gauge", "Slices that wait for a worker of a pool.", ("pool",)),
    "slices_at_work": Metric("gauge", "Workers of a pool that have a slice.", ("pool",)),
    "store_questions": Metric("counter", "What workers asked of storages, a request or a few each."),
    "store_retries": Metric("counter", "How often they asked again after a failure."),
    "worker_troubles": Metric("counter", "Workers that ended before their time, by cause.", ("cause",)),
    "commits": Metric("counter", "Chunks that were committed."),
    "rows": Metric("gauge", "Rows that this start is to see done."),
    "rows_done": Metric("gauge", "Rows of these that are done."),
}
PREFIX = "materia_"


class Exporter(Protocol):
    """Tells one number; what kind it is follows from its name."""

    def tell(self, name: str, value: float, labels: Labels) -> None:
        """Add to a counter, set a gauge, or observe."""
        ...


class Port:
    """Metrics at http://HOST:PORT/metrics, as long as the process lives. Raises UserError if that is taken."""

    def __init__(self, port: int) -> None:
        try:
            import prometheus_client
        except ImportError:
            raise UserError("--metrics-port needs prometheus-client: pip install 'prima-materia[metrics]'") from None
        registry = prometheus_client.CollectorRegistry()
        kinds: dict[str, Any] = {
            "counter": prometheus_client.Counter,
            "gauge": prometheus_client.Gauge,
            "histogram": prometheus_client.Histogram,
        }
        self._metrics = {}
        for name, metric in METRICS.items():
            more = {"buckets": metric.buckets} if metric.buckets else {}
            self._metrics[name] = kinds[metric.kind](PREFIX + name, metric.help, metric.labels, registry=registry, **more)
        try:
            self._server, self._thread = prometheus_client.start_http_server(port, registry=registry)
        except OSError as error:
            raise UserError(f"--metrics-port {port}: {error.strerror}") from None

    def tell(self, name: str, value: float, labels: Labels) -> None:
        """See Exporter."""
        metric = self._metrics[name].labels(**labels) if labels else self._metrics[name]
        getattr(metric, _VERBS[METRICS[name].kind])(value)

    def close(self) -> None:
        """Give the port back."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class RayExporter:
    """Ray's own exporter, which every node of a cluster with ray[default] has; made when Ray is there."""

    def __init__(self) -> None:
        from ray.util import metrics

        kinds: dict[str, Any] = {"counter": metrics.Counter, "gauge": metrics.Gauge, "histogram": metrics.Histogram}
        self._metrics = {}
        for name, metric in METRICS.items():
            more = {"boundaries": list(metric.buckets)} if metric.buckets else {}
            self._metrics[name] = kinds[metric.kind](PREFIX + name, metric.help, tag_keys=metric.labels, **more)

    def tell(self, name: str, value: float, labels: Labels) -> None:
        """See Exporter."""
        getattr(self._metrics[name], _VERBS[METRICS[name].kind])(value, tags=dict(labels))


_VERBS = {"counter": "inc", "gauge": "set", "histogram": "observe"}


class Metrics:
    """Of one start of a job."""

    def __init__(self, exporters: Sequence[Exporter], pools: Sequence[Pool], rows: int, done: int) -> None:
        self._exporters = [*exporters]
        self._pools = [*pools]
        self._done = done
        self._tell("rows", rows)
        self._tell("rows_done", done)
        for pool in pools:
            self._tell("workers", pool.workers, pool=pool.stages[0])
            self._tell("cards", pool.workers * pool.cards, pool=pool.stages[0])

    def add(self, report: Report) -> None:
        """A slice is finished."""
        self._done += report.rows
        self._tell("rows_done", self._done)
        self._tell("clips", report.kept, outcome="kept", reason="")
        for reason, rows in report.rejected.items():
            self._tell("clips", rows, outcome="rejected", reason=reason)
        for span in report.spans:
            self._tell("stage_seconds", span.seconds / span.rows, stage=span.stage)
            self._tell("batch_rows", span.rows, stage=span.stage)
        seconds = report.seconds
        for pool in self._pools:
            self._tell("worker_seconds", pool.seconds(seconds), pool=pool.stages[0])
        self._tell("slice_seconds", report.wall_s)
        self._tell("store_questions", report.asked.questions)
        self._tell("store_retries", report.asked.repeated)
        for cause, times in Counter(trouble.cause for trouble in report.troubles).items():
            self._tell("worker_troubles", times, cause=cause)

    def committed(self) -> None:
        """A chunk is."""
        self._tell("commits", 1)

    def queues(self, found: Sequence[Queue]) -> None:
        """Of all pools, now."""
        for pool, queue in zip(self._pools, found, strict=True):
            self._tell("slices_waiting", queue.waiting, pool=pool.stages[0])
            self._tell("slices_at_work", queue.at_work, pool=pool.stages[0])

    def _tell(self, name: str, value: float, **labels: str) -> None:
        for exporter in self._exporters:
            if METRICS[name].kind != "counter" or value > 0:  # Ray refuses to add nothing
                exporter.tell(name, value, labels)
