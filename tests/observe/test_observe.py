from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider

import tenancy
from tenancy.observe import RoutingKeyFilter, annotate_span, key_label, warn_once
from tenancy.observe import _counters as counters
from tenancy.observe import _logging as logs


def test_log_records_have_the_key() -> None:
    """The filter gives every record the current key, or a dash."""
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Handler()
    handler.setFormatter(logging.Formatter("[%(routing_key)s] %(message)s"))
    handler.addFilter(RoutingKeyFilter())
    logger = logging.getLogger("some.library")
    logger.addHandler(handler)
    logger.warning("outside")
    with tenancy.scope("pr-42"):
        logger.warning("inside")
    logger.warning("explicit", extra={"routing_key": "given"})
    logger.removeHandler(handler)
    assert lines == ["[-] outside", "[pr-42] inside", "[given] explicit"]


def test_the_span_tells_the_verdict() -> None:
    """The current span gets the key, the verdict and the reason, as far as known; without a span nothing happens."""
    annotate_span(tenancy.RoutingKey("pr-42"), verdict="own", reason="because")
    with TracerProvider().get_tracer("test").start_as_current_span("work") as span:
        annotate_span(tenancy.RoutingKey("pr-42"), verdict="own", reason="because")
        assert dict(span.attributes or {}) == {
            "tenancy.routing_key": "pr-42",
            "tenancy.verdict": "own",
            "tenancy.reason": "because",
        }  # type: ignore[attr-defined]
    with TracerProvider().get_tracer("test").start_as_current_span("work") as span:
        annotate_span(None, verdict="own")
        assert dict(span.attributes or {}) == {"tenancy.verdict": "own"}  # type: ignore[attr-defined]


def test_label_values_are_bounded() -> None:
    """Unknown keys share one label, and so do known ones beyond the hundredth."""
    assert key_label(None, known=False) == "_none"
    assert {key_label(tenancy.RoutingKey(f"x-{number}"), known=False) for number in range(500)} == {"_unknown"}
    labels = {key_label(tenancy.RoutingKey(f"pr-{number}"), known=True) for number in range(500)}
    assert len(labels) == counters.MAX_KEY_LABELS + 1
    assert "_other" in labels
    assert key_label(tenancy.RoutingKey("pr-0"), known=True) == "pr-0"


def test_warnings_are_given_once_and_remembered_within_bounds(caplog: pytest.LogCaptureFixture) -> None:
    """A subject is warned about once; the memory of each kind is bounded, and one that is full silences no other."""
    with caplog.at_level(logging.WARNING, "tenancy"):
        for _ in range(2):
            for number in range(1500):
                warn_once(f"egress:{number}", "about %d", number)
        assert len(caplog.records) == len(logs._warned) == 1000
        warn_once("routes:broken", "another kind")
    assert caplog.messages[-1] == "another kind"


def test_counters_reach_an_sdk_that_is_set_up_later(tmp_path: Path) -> None:
    """Counted by name with the documented labels, also when the SDK comes after the import; without it nothing fails."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import tenancy
from tenancy.routes.admission import Admission
Admission("asgi").admit({"baggage": "sd-routing-key=NOT OK"})  # no SDK yet
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
Admission("asgi").admit({"baggage": "sd-routing-key=NOT OK"})
Admission("asgi").admit({"baggage": "sd-routing-key=a,sd-routing-key=b"})
tenancy.inject({"baggage": ",".join(f"k{n}=1" for n in range(200))}, key="pr-42")
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            for point in metric.data.data_points:
                print(scope.scope.name, metric.name, dict(point.attributes), point.value)
"""
    )
    result = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(result.stdout.splitlines()) == [
        "tenancy tenancy.baggage.dropped_members {} 21",
        "tenancy tenancy.keys.conflicting {'adapter': 'asgi'} 1",
        "tenancy tenancy.keys.malformed {'adapter': 'asgi'} 1",
    ]
