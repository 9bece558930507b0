"""Which stage had which slice when, as a trace that chrome://tracing and ui.perfetto.dev draw: a row for each worker.

In: the spans of slices. Out: JSON of the Trace Event Format, with times in microseconds since the first span began.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pipeline.engine.messages import Span


def trace(slices: Iterable[tuple[int, list[Span]]]) -> dict[str, Any]:
    """Of slices by number."""
    spans = [(number, span) for number, of_slice in slices for span in of_slice]
    first_s = min((span.began_s for _, span in spans), default=0.0)
    nodes: dict[str, int] = {}
    events: list[dict[str, Any]] = []
    for number, span in spans:
        node, _, worker = span.worker.rpartition(" ")
        pid = nodes.setdefault(node, len(nodes) + 1)
        events.append(
            {
                "name": span.stage,
                "cat": "stage",
                "ph": "X",
                "ts": round(1e6 * (span.began_s - first_s)),
                "dur": round(1e6 * span.seconds),
                "pid": pid,
                "tid": int(worker or 0),
                "args": {"slice": number, "rows": span.rows},
            }
        )
    names = [{"name": "process_name", "ph": "M", "pid": pid, "args": {"name": node or "here"}} for node, pid in nodes.items()]
    return {"displayTimeUnit": "ms", "traceEvents": [*names, *sorted(events, key=lambda event: event["ts"])]}
