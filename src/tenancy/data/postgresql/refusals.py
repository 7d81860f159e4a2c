"""
Which tables cannot have the mode that they have, and which views a partition cannot have, with the reasons and what to use instead. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from .modes import Mode, Rows
from .structure import ForeignKey, Table, View

__all__ = ["reaching", "refusals", "unserved"]

# What a foreign key can do to the rows that refer to a changed one; PostgreSQL does it in the baseline.
_ACTIONS = {"c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}

# Strings and quoted names are no mention of what they are called.
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*\"""")
_BY_ROLE = re.compile(r"\b(current_user|session_user|current_role|user|pg_has_role|has_\w+_privilege)\b", re.IGNORECASE)


def refusals(tables: Iterable[tuple[Table, Mode | Rows]]) -> list[str]:
    """
    Return why tables cannot have the modes that they have, and what to do instead, by their names; empty: they can.

    Args:
        tables: The baseline's tables, each with its mode.
    """
    tables = list(tables)
    found = [(table, _refusal(table, mode)) for table, mode in tables]
    return [f"{table.full_name}: {reason}" for table, reason in found if reason] + reaching(tables)


def reaching(tables: Iterable[tuple[Table, Mode | Rows]]) -> list[str]:
    """
    Return why a key that changes or deletes its rows of the baseline's tables would change other rows of the baseline, by the tables' names.

    Args:
        tables: The baseline's tables, each with its mode.
    """
    tables = list(tables)
    by_rows = {(table.schema, table.name): table for table, mode in tables if isinstance(mode, Rows)}
    found = []
    for table, mode in tables:
        for key in table.foreign_keys:
            target = by_rows.get((key.to_schema, key.to_table))
            if target and _actions(key) and not isinstance(mode, Rows):
                found.append(
                    f"{target.full_name}: the foreign key {key.name} of {table.full_name} ({_actions(key)}) would change rows of the "
                    f"baseline there, of which the mode is {mode}, with those that a key changes or deletes here, or that go with its "
                    f"partition; use Rows for {table.full_name} too, or another mode here, or make it NO ACTION"
                )
    found += [
        (
            f"{table.full_name}: what a key changes or deletes would change rows of the baseline in tables that are not covered: "
            f"{changing}; make that NO ACTION, or use mode readonly"
        )
        for table in by_rows.values()
        if (changing := _from(each for each in table.referred_from if each[2]))
    ]
    return found


def _actions(key: ForeignKey) -> str:
    named = (("ON DELETE", key.on_delete), ("ON UPDATE", key.on_update))
    return ", ".join(f"{event} {_ACTIONS[action]}" for event, action in named if action in _ACTIONS)


def _refusal(table: Table, mode: Mode | Rows) -> str | None:
    if isinstance(mode, Rows):
        found = _of_rows(table, mode)
    elif mode == "readonly":
        found = _by_role(table) if table.row_security else None
    elif table.row_security:
        # What readonly would be refused for is said at once, and not after it was tried.
        found = _by_role(table) or "it has row security, whose policies a partition would not have; use mode readonly"
    else:
        found = _of_own(table, mode)
    return found


def _of_own(table: Table, mode: Mode) -> str | None:
    """
    Why a table of a key's own, or an overlay, would not be what the baseline's is.
    """
    if table.inherits:
        return "it is part of an inheritance tree, where a query finds the rows of other tables too; use mode readonly"
    if table.rules:
        names = ", ".join(name for name, _ in table.rules)
        return f"it has rules ({names}), which a partition would not have; use triggers in their place, or mode readonly"
    if table.of_leaves:
        return (
            f"a partition of a key has one table in place of all of its partitions, and would not have {'; '.join(table.of_leaves)}; "
            "drop that, have it for the whole table, or use mode readonly"
        )
    if table.referred_from:
        return (
            f"what a key deletes would not be looked for in tables that are not covered: {_from(table.referred_from)}; name their "
            "schemas in schemas= too, or use mode readonly"
        )
    return _of_overlay(table) if mode == "overlay" else None


def _of_overlay(table: Table) -> str | None:
    if not table.primary_key:
        return "it has no primary key, so there is nothing to tell changed rows by; use mode copy, empty or readonly"
    if any(index.exclusion for index in table.indexes):
        return "it has an exclusion constraint, which cannot be checked over an overlay; use mode copy, empty or readonly"
    if table.triggers:
        names = ", ".join(name for name, _ in table.triggers)
        return f"it has triggers of its own ({names}), which an overlay would not run; use mode copy or empty, which has them too"
    for index, operators in table.operators:
        return (
            f"its unique index {index} is by {operators}, and an overlay would compare by the type's default operators; use mode copy, "
            "empty or readonly"
        )
    return None


def _of_rows(table: Table, mode: Rows) -> str | None:
    if mode.column not in {column.name for column in table.columns}:
        return f"it has no column {mode.column!r}"
    if table.rules:
        names = ", ".join(name for name, _ in table.rules)
        return f"it has rules ({names}), which would change the baseline by their owner's rights; use triggers in their place"
    if table.row_security and not table.forced:
        return (
            "it has row security, which does not hold for its owner, by whose rights the key's rows are found; use mode readonly, "
            "or ALTER TABLE ... FORCE ROW LEVEL SECURITY"
        )
    return _by_role(table) if table.row_security else None


def _from(keys: Iterable[tuple[str, str, bool]]) -> str:
    return ", ".join(f"the foreign key {name} of {table}" for name, table, _ in keys)


def _by_role(table: Table) -> str | None:
    """
    Why row security would not show a key what it shows without one, since statements of a key are run by another role.
    """
    way_out = (
        "have policies that are TO PUBLIC and go by something else, such as current_setting(), or move the table to a schema that is "
        "not covered"
    )
    if not table.policies:
        return f"it has row security without a policy, which would show no row to a key; {way_out}"
    unlike = [policy.name for policy in table.policies if not policy.public or _BY_ROLE.search(_QUOTED.sub("", policy.expression))]
    if unlike:
        return (
            f"it has row security that goes by the role ({', '.join(unlike)}), which for a key is another one, so that it would not "
            f"see the same rows; {way_out}"
        )
    return None


def unserved(views: Iterable[View], modes: Mapping[str, object]) -> dict[tuple[str, str], str]:
    """
    Return why views cannot be in a partition, by their schemas and names: made there, they would show the baseline.

    Args:
        views: The baseline's views, each after those that it is made of.
        modes: The mode of each table that is covered, by its name with its schema.
    """
    left_out: dict[tuple[str, str], str] = {}
    views = list(views)
    own = {(view.schema, view.name) for view in views}
    for view in views:
        if reason := next(_outside(view, modes, own, left_out), None):
            left_out[view.schema, view.name] = reason
    return left_out


def _outside(
    view: View, modes: Mapping[str, object], own: set[tuple[str, str]], left_out: Mapping[tuple[str, str], str]
) -> Iterator[str]:
    for each in view.relations:
        name, place = f"{each.schema}.{each.name}", (each.schema, each.name)
        # What counts is the baseline's, as everywhere; what is the system's or an extension's no key can change.
        if each.shared or each.kind == "S" or modes.get(name) == "readonly":
            continue
        if each.kind == "m":
            yield f"it is made of {name}, a materialized view, whose rows are those of the baseline"
        elif each.kind == "f":
            yield f"it is made of {name}, a foreign table, of which no partition has one"
        elif place in left_out:
            yield f"it is made of {name}, which is not there either"
        elif name not in modes and place not in own:
            yield f"it is made of {name}, which is a partition of a table or in a schema that is not covered"
        elif not each.named:
            yield f"it is made of {name}, whose name another schema that is covered has too"
