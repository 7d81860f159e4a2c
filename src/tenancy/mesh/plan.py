"""
From baselines and forks to documents: what is the same for every target.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .._optional import extra
from ..errors import ConfigurationError
from .model import Baseline, Fork

__all__ = ["Document", "Plan", "Route", "Target", "fingerprint", "render"]


@dataclass(frozen=True)
class Route:
    """
    One workload: its baseline, and its forks in the order of their keys.
    """

    baseline: Baseline
    forks: tuple[Fork, ...]


@dataclass(frozen=True)
class Plan:
    """
    What is to be rendered: checked, complete, and in one order whatever the order of the input was.

    Args:
        routes: One for each workload, in the order of (namespace, name).
    """

    routes: tuple[Route, ...]


@dataclass(frozen=True)
class Document:
    """
    One rendered document.

    Args:
        name: What the document is called within its target, without a file extension.
        content: Plain JSON data.
    """

    name: str
    content: Mapping[str, Any]

    def to_json(self) -> str:
        """
        Return the document as JSON, with sorted members and a line feed at the end; equal documents give equal text.
        """
        return json.dumps(self.content, indent=2, sort_keys=True) + "\n"

    def to_yaml(self) -> str:
        """
        Return the document as YAML, with sorted members; equal documents give equal text.

        Raises:
            MissingDependencyError: If PyYAML is not installed.
        """
        return _yaml(self.content)


class Target(Protocol):
    """
    A mesh that rules can be rendered for.
    """

    def documents(self, plan: Plan) -> tuple[Document, ...]:
        """
        Return the target's documents for a plan; a pure function of the plan and the target's own fields.
        """
        ...


def render(baseline_routes: Iterable[Baseline], sandboxes: Iterable[Fork], target: Target) -> tuple[Document, ...]:
    """
    Return the documents that make a mesh send each request to its one owner; pure and deterministic.

    Args:
        baseline_routes: Every workload that the mesh routes, each once, in any order.
        sandboxes: The forks of all sandboxes, in any order.
        target: What to render for, such as an `EnvoyTarget`.

    Returns:
        The target's documents; byte for byte the same for the same input in any order.

    Raises:
        ConfigurationError: If a request would have two owners or none: a workload with two baselines, a fork of a workload without
            one, two forks of a workload under one key; or if the target cannot express the plan.
    """
    return target.documents(_plan(baseline_routes, sandboxes))


def fingerprint(content: Mapping[str, Any]) -> str:
    """
    Return the SHA-256 of the canonical JSON of *content*, in hexadecimal: equal exactly where the content is.
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _plan(baselines: Iterable[Baseline], forks: Iterable[Fork]) -> Plan:
    by_workload: dict[str, Baseline] = {}
    for baseline in baselines:
        other = by_workload.setdefault(baseline.workload, baseline)
        if other is not baseline:
            raise ConfigurationError(
                f"{baseline.workload} has two baselines, at {other.upstream} and at {baseline.upstream}; list each workload once"
            )
    owned: dict[str, dict[str, Fork]] = {workload: {} for workload in by_workload}
    for fork in forks:
        if fork.workload not in owned:
            raise ConfigurationError(
                f"sandbox {fork.sandbox} forks {fork.workload}, which has no baseline route; add the workload's baseline, or remove "
                "the fork"
            )
        first = owned[fork.workload].setdefault(fork.key, fork)
        if first is not fork:
            names = sorted((first.sandbox, fork.sandbox))
            who = f"sandboxes {names[0]} and {names[1]} both fork" if names[0] != names[1] else f"sandbox {names[0]} twice forks"
            raise ConfigurationError(
                f"{who} {fork.workload} under the key {fork.key}; a key leads to one fork of a workload, so remove one or give it "
                "another key"
            )
    return Plan(
        tuple(
            Route(by_workload[workload], tuple(owned[workload][key] for key in sorted(owned[workload])))
            for workload in sorted(by_workload, key=lambda name: name.split("/"))
        )
    )


# Plain scalars that YAML 1.1 or 1.2 readers take for something else than text all begin with no letter, or are one of these words.
_PLAIN = re.compile(r"[A-Za-z][\w./@-]*", re.ASCII)
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def _yaml(content: Mapping[str, Any]) -> str:
    with extra("yaml", "yaml"):
        import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        if "\n" in value:
            style: str | None = "|"
        else:
            style = None if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else "'"
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(content, Dumper=Dumper, sort_keys=True, width=120, default_flow_style=False)
