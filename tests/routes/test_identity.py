from __future__ import annotations

import pytest

from tenancy import IdentityError, Settings
from tenancy.key import RoutingKey
from tenancy.routes import Identity, Route, RouteTable, check_known, resolve_identity


@pytest.mark.parametrize(
    ("environ", "identity"),
    [
        ({"TENANCY_ROLE": "baseline", "TENANCY_WORKLOAD": "shop/orders"}, Identity("shop/orders", None)),
        ({"TENANCY_SANDBOX": "pr-42", "TENANCY_WORKLOAD": "shop/orders"}, Identity("shop/orders", "pr-42")),
        (
            {"TENANCY_SANDBOX": "pr-42", "TENANCY_ROLE": "sandbox", "TENANCY_WORKLOAD": "shop/orders"},
            Identity("shop/orders", "pr-42"),
        ),
        (
            {"SIGNADOT_SANDBOX_NAME": "pr-42", "SIGNADOT_BASELINE_NAME": "orders", "SIGNADOT_BASELINE_NAMESPACE": "shop"},
            Identity("shop/orders", "pr-42"),
        ),
    ],
)
def test_who_this_process_is(environ: dict[str, str], identity: Identity) -> None:
    """A role or a sandbox, and a workload, make an identity."""
    assert resolve_identity(using=Settings.load(environ)) == identity
    assert "orders" in str(identity)


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({}, "TENANCY_WORKLOAD"),
        ({"TENANCY_WORKLOAD": "shop/orders"}, "TENANCY_ROLE=baseline"),
        ({"TENANCY_WORKLOAD": "orders", "TENANCY_ROLE": "baseline"}, "namespace/name"),
        ({"TENANCY_WORKLOAD": "shop/", "TENANCY_ROLE": "baseline"}, "namespace/name"),
        ({"TENANCY_WORKLOAD": "shop/orders", "TENANCY_ROLE": "sandbox"}, "TENANCY_SANDBOX"),
        ({"TENANCY_WORKLOAD": "shop/orders", "TENANCY_ROLE": "baseline", "TENANCY_SANDBOX": "pr-42"}, "one or the other"),
        ({"TENANCY_WORKLOAD": "shop/orders", "TENANCY_SANDBOX": "pr-42", "TENANCY_ENABLED": "false"}, "switched off"),
    ],
)
def test_it_is_never_guessed(environ: dict[str, str], shown: str) -> None:
    """A process that lost a variable, contradicts itself, or is a fork with tenancy off raises and says what to set."""
    with pytest.raises(IdentityError, match=shown):
        resolve_identity(using=Settings.load(environ))


def test_a_workload_that_no_table_knows_is_refused() -> None:
    """A misspelt workload raises, with the nearest that exists."""
    table = RouteTable([Route("shop/orders", RoutingKey("pr-42"), "pr-42")], workloads=["shop/notify"])
    check_known(Identity("shop/orders", None), table)
    check_known(Identity("shop/notify", "pr-42"), table)
    with pytest.raises(IdentityError, match="did you mean shop/orders"):
        check_known(Identity("shop/order", None), table)
    with pytest.raises(IdentityError, match=r"'bank/ledger'\. Correct TENANCY_WORKLOAD.*workloads"):
        check_known(Identity("bank/ledger", None), table)
