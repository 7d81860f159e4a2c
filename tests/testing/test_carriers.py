from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any
from wsgiref.validate import validator

import pytest

import tenancy
from tenancy.testing import SHAPES, Shape, carrier, header_lines
from tenancy.testing.carriers import header_pairs

LINES = [("X-Request-Id", "1"), ("Baggage", "user=ann"), ("baggage", "team=a"), ("x-bin", "\xe9")]


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "wsgi"])
def test_every_shape_is_one_that_the_codec_reads_and_writes(shape: Shape) -> None:
    """What is read from it is the key that was put in; the way back to text loses nothing; writing leaves the original alone."""
    made = carrier(shape, LINES, key="pr-42")
    assert tenancy.extract(made) == "pr-42"
    before = copy.deepcopy(made)
    assert tenancy.extract(tenancy.inject(made, key="pr-7")) == "pr-7"
    assert made == before
    assert [line for line in header_lines(made) if line[0] != "x-delivery-count"] == [
        ("x-request-id", "1"),
        ("x-bin", "\xe9"),
        ("baggage", "sd-routing-key=pr-42,user=ann,team=a"),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_without_a_key_the_headers_are_as_given(shape: Shape) -> None:
    """Nothing is added or taken away, so a header can be malformed on purpose; a name that comes twice is kept where it can be."""
    given = [("a", "1"), ("baggage", "sd-routing-key=PR_42"), ("baggage", "b=2")]
    kept = [line for line in header_lines(carrier(shape, given)) if line[0] != "host"]
    twice = shape in ("asgi", "pairs", "grpc", "kafka")
    assert kept == (given if twice else [("a", "1"), ("baggage", "sd-routing-key=PR_42,b=2")])
    assert header_lines(carrier(shape, {"a": "1"}))[-1] == ("a", "1")


def test_an_environ_is_one_that_wsgi_takes() -> None:
    """It has all that PEP 3333 asks for, and headers under the names that it gives them."""
    environ = carrier("wsgi", {"X-Request-Id": "1", "traceparent": "00"}, key="pr-42")
    assert environ["HTTP_BAGGAGE"] == "sd-routing-key=pr-42"
    assert environ["HTTP_X_REQUEST_ID"] == "1"

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]

    body: Any = validator(app)(environ, lambda status, headers, exc_info=None: lambda data: None)
    assert list(body) == [b"ok"]
    body.close()


def test_the_shapes_are_those_of_the_libraries() -> None:
    """Bytes and text where the library has bytes and text."""
    headers = {"A": "1"}
    assert carrier("asgi", headers) == [(b"a", b"1")]
    assert carrier("grpc", headers) == (("a", "1"),)
    assert carrier("kafka", headers) == [("A", b"1")]
    assert carrier("pairs", headers) == [("A", "1")]
    assert carrier("dict", headers) == headers
    assert carrier("sqs", headers) == {"A": {"DataType": "String", "StringValue": "1"}}
    amqp: Mapping[str, Any] = carrier("amqp", headers)
    assert amqp["A"] == "1"
    assert any(not isinstance(value, str) for value in amqp.values())


def test_mistakes_are_told() -> None:
    """A shape that does not exist, and a key that is none."""
    with pytest.raises(tenancy.ConfigurationError, match="'soap'; use one of asgi, wsgi"):
        carrier("soap")  # type: ignore[arg-type]
    with pytest.raises(tenancy.InvalidRoutingKeyError):
        carrier("dict", key="PR_42")
    assert header_pairs(iter([("a", "1")])) == [("a", "1")]
