from __future__ import annotations

from pathlib import Path

import pytest

import tenancy
from tenancy.config import DIALECTS, EdgeField, Field, Settings


def test_defaults() -> None:
    """Without variables: enabled, Signadot's names read, one baggage member written, nobody in particular."""
    settings = Settings.load({})
    assert settings == Settings()
    assert settings.member == "sd-routing-key"
    assert settings.write == (Field("baggage", "sd-routing-key"),)


def test_arguments_go_before_variables_and_ours_before_signadots() -> None:
    """The order is arguments, TENANCY_*, SIGNADOT_*."""
    environ = {
        "SIGNADOT_SANDBOX_NAME": "theirs",
        "SIGNADOT_BASELINE_NAMESPACE": "shop",
        "SIGNADOT_BASELINE_NAME": "orders",
        "TENANCY_SANDBOX": "ours",
    }
    settings = Settings.load(environ)
    assert (settings.sandbox, settings.workload) == ("ours", "shop/orders")
    settings = Settings.load(environ, sandbox="argument", workload="a/b")
    assert (settings.sandbox, settings.workload) == ("argument", "a/b")
    assert Settings.load({"SIGNADOT_BASELINE_NAME": "orders"}).workload == "default/orders"


def test_every_setting_has_a_variable() -> None:
    """Each variable is read, with its own type."""
    settings = Settings.load(
        {
            "TENANCY_ENABLED": "no",
            "TENANCY_READ": "okteto, header:X-Key",
            "TENANCY_WORKLOAD": "shop/orders",
            "TENANCY_ROLE": "baseline",
            "TENANCY_ROUTES": "env:",
            "TENANCY_ROUTES_DEADLINE": "2.5",
            "TENANCY_ACCEPT": "known",
            "TENANCY_EDGE": "host:{key}.Preview.example.com, cookie:Routing-Key",
            "TENANCY_TRUSTED_HOSTS": "*.example.com, api.example.org",
            "TENANCY_RESPONSE_HEADER": "x-served-by",
            "TENANCY_CACHE_HEADERS": "0",
        }
    )
    assert settings == Settings(
        enabled=False,
        read=(Field("baggage", "okteto-divert"), Field("header", "X-Key")),
        write=(Field("baggage", "okteto-divert"),),
        workload="shop/orders",
        role="baseline",
        routes="env:",
        routes_deadline=2.5,
        accept="known",
        edge=(EdgeField("host", "{key}.preview.example.com"), EdgeField("cookie", "Routing-Key")),
        trusted_hosts=("*.example.com", "api.example.org"),
        response_header="x-served-by",
        cache_headers=False,
    )


def test_dialects_can_be_mixed() -> None:
    """Dialects and single fields make one list, in order and without repeats."""
    settings = Settings.load({}, read=["okteto", "signadot", "baggage:okteto-divert"], write="signadot")
    assert settings.read == DIALECTS["okteto"] + DIALECTS["signadot"]
    assert settings.write == DIALECTS["signadot"]
    assert settings.member == "okteto-divert"


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({"TENANCY_ENABLED": "maybe"}, "maybe"),
        ({"TENANCY_READ": "jaeger"}, "jaeger"),
        ({"TENANCY_READ": "header:x-key"}, "baggage field"),
        ({"TENANCY_WRITE": "header:x-key"}, "header:x-key"),
        ({"TENANCY_ROUTES_DEADLINE": "soon"}, "soon"),
        ({"TENANCY_EDGE": "cookie:k,host:preview.example.com"}, "'host:preview.example.com'"),
        ({"TENANCY_ROUTES_DEADLINE": "nan"}, "nan"),
        ({"TENANCY_ROUTES_DEADLINE": "-1"}, "-1"),
        ({"TENANCY_ROLE": "primary"}, "primary"),
        ({"TENANCY_ACCEPT": "some"}, "some"),
        ({"TENANCY_SANDBOX": "PR 42"}, "PR 42"),
    ],
)
def test_a_bad_value_is_shown(environ: dict[str, str], shown: str) -> None:
    """A value that cannot be used raises, and the message shows it."""
    with pytest.raises(tenancy.ConfigurationError, match=shown):
        Settings.load(environ)


@pytest.mark.parametrize("name", ["read", "write", "trusted_hosts", "routes", "workload", "sandbox", "role", "response_header"])
def test_an_argument_of_a_wrong_type_is_shown(name: str) -> None:
    """It raises where it is given, and not where it is used."""
    for value in (5, [5], Path("routes.yaml")):
        with pytest.raises(tenancy.ConfigurationError, match=name):
            Settings.load({}, **{name: value})


def test_an_unknown_argument_is_refused() -> None:
    """A misspelt setting raises, and names those that exist."""
    with pytest.raises(tenancy.ConfigurationError, match="workload"):
        Settings.load({}, workloda="shop/orders")


def test_configure_replaces_the_process_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is configured holds from then on; complete settings can be varied."""
    monkeypatch.setenv("TENANCY_WORKLOAD", "shop/orders")
    assert tenancy.configure(sandbox="pr-42") == tenancy.settings()
    assert (tenancy.settings().workload, tenancy.settings().sandbox) == ("shop/orders", "pr-42")
    assert tenancy.configure(Settings(), role="baseline") == Settings(role="baseline")
