"""Database warnings: what makes the database unsafe for data that must not be lost."""

from typing import Literal

from typing_extensions import TypedDict

DatabaseWarningCode = Literal[
    "fsync_off",
    "full_page_writes_off",
    "synchronous_commit_off",
    "version_too_old",
    "clocks_differ",
    "standby",
    "read_only",
    "not_encrypted",
    "replica_unreachable",
    "replica_is_primary",
]


class DatabaseWarning(TypedDict):
    """A reason why the database is unsafe: `code` for programs, `detail` for people."""

    code: DatabaseWarningCode
    detail: str
