"""Tables: what a service declares about those that it owns, so that one loop serves all services.

Erasing a project, `db maintain`, the documented grants and the tests of isolation read these
declarations. A new table needs a declaration in its service and nothing elsewhere.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from llmring_server.core.identity import Action

Grant = Literal["UPDATE", "DELETE"]
NO_PARAMS: Mapping[str, Any] = MappingProxyType({})


class Table(NamedTuple):
    """A table, how its rows of one project are erased, and what a serving role may do with it."""

    name: str
    # What people call its rows: reported when a project is erased.
    rows: str = ""
    # The statement that deletes at most @limit rows of @project_id and returns how many as
    # `deleted`. None: the table has no rows of projects, or they stay or go with the project's own.
    erase: str | None = None
    # What serving needs besides SELECT and INSERT.
    grants: tuple[Grant, ...] = ()
    # The prefix of its placeholder in statements, <<tables.x>> or <<mcp.x>>: its schema.
    schema: Literal["tables", "mcp"] = "tables"


class Retention(NamedTuple):
    """A statement of `db maintain` that deletes at most @limit rows that have expired."""

    statement: str
    # What people call the rows.
    rows: str
    # What the audit log calls it.
    action: Action
    params: Mapping[str, Any] = NO_PARAMS
