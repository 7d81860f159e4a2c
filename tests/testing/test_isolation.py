from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

import tenancy
from tenancy import config
from tenancy.messaging import aio_pika as rabbitmq
from tenancy.observe import _counters, _logging, key_label, warn_once
from tenancy.routes import live, routes_for
from tenancy.testing import MemoryRoutes, isolated_settings


def test_a_block_has_the_defaults_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment and the process say, inside it is not so; afterwards it is again, to the same objects."""
    monkeypatch.setenv("TENANCY_WORKLOAD", "shop/outside")
    monkeypatch.setenv("SIGNADOT_SANDBOX_NAME", "pr-7")
    monkeypatch.setenv("TENANCY_TEST_OTHER", "kept")
    outside = tenancy.configure(role="sandbox")
    environment = dict(os.environ)
    remembered = [(config, "_current"), (live, "_opened"), (_logging, "_warned"), (_logging, "_kinds"), (_counters, "_labelled")]
    before = [getattr(module, name) for module, name in remembered]
    with isolated_settings() as configure:
        assert tenancy.settings() == tenancy.Settings()
        assert os.environ["TENANCY_TEST_OTHER"] == "kept"
        assert configure(workload="shop/orders", role="baseline").workload == "shop/orders"
        os.environ["TENANCY_ACCEPT"] = "none"
        os.environ["TENANCY_TEST_OTHER"] = "changed"
        monkeypatch.setenv("TENANCY_SANDBOX", "pr-8")
    assert dict(os.environ) == environment
    assert tenancy.settings() is outside
    assert all(getattr(module, name) is value for (module, name), value in zip(remembered, before, strict=True))


def test_arguments_are_kept_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call adds to the ones before it, and reads the environment as it is now; a value that cannot be used changes nothing."""
    with isolated_settings(workload="shop/orders") as configure:
        assert configure(role="baseline") == tenancy.Settings(workload="shop/orders", role="baseline")
        monkeypatch.setenv("TENANCY_SANDBOX", "pr-42")
        assert configure(role=None).sandbox == "pr-42"
        with pytest.raises(tenancy.ConfigurationError, match="read"):
            configure(read="nobody's", workload="shop/other")
        assert configure().workload == "shop/orders"
        assert configure(read="okteto").member == "okteto-divert"


def test_what_is_logged_once_is_logged_in_each_block(caplog: pytest.LogCaptureFixture) -> None:
    """The memory of warnings, of labels and of own queues starts empty, and comes back."""
    warn_once("test:isolation", "outside")
    for _ in range(2):
        with isolated_settings(role="baseline", workload="shop/orders"), caplog.at_level(logging.WARNING, "tenancy"):
            warn_once("test:isolation", "inside")
            warn_once("test:isolation", "inside")
            key_label(tenancy.RoutingKey("pr-42"), known=True)
            rabbitmq.queue_name("isolation")
            assert len(_counters._labelled) == 1
    assert [record.getMessage() for record in caplog.records] == ["outside", "inside", "inside"]
    assert "isolation" not in rabbitmq._own_queues


def test_a_table_that_was_opened_is_closed(tmp_path: Path) -> None:
    """No thread goes on reading what a test has left."""
    path = tmp_path / "routes.json"
    path.write_text("{}")
    with isolated_settings(routes=path.as_uri()):
        routes = routes_for()
        assert routes is not None
        assert not routes._closed
    assert routes._closed


def test_it_is_undone_where_the_block_fails() -> None:
    """An exception is passed on, and so is a value that cannot be used; in either case everything is as before."""
    outside = tenancy.settings()
    with pytest.raises(LookupError), isolated_settings(role="baseline"):
        raise LookupError
    with pytest.raises(tenancy.ConfigurationError), isolated_settings(role="guest"):
        pass
    assert tenancy.settings() is outside


def test_blocks_nest() -> None:
    """The outer block's settings and tables come back."""
    with isolated_settings(role="baseline"):
        table = MemoryRoutes({"shop/orders": ["pr-42"]})
        tenancy.configure(routes=table.url)
        with isolated_settings():
            assert tenancy.settings().role is None
            assert routes_for() is None
        assert routes_for() is table
