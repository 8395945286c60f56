"""Core: values and helpers that know neither the database nor HTTP.

Identities and scopes, ids, time ranges, page cursors, strict JSON and retries. Every other package
may import them; they import only `errors`.
"""

from llmring_server.core.identity import (
    LIBRARY,
    Actor,
    ApiScope,
    Caller,
    ProjectId,
    project_of_key,
)
from llmring_server.core.ids import moment_of, new_id, new_id_and_time
from llmring_server.core.pagination import PageParams, Position
from llmring_server.core.strict_json import JsonObject
from llmring_server.core.time_range import TimeRange

__all__ = [
    "LIBRARY",
    "Actor",
    "ApiScope",
    "Caller",
    "JsonObject",
    "PageParams",
    "Position",
    "ProjectId",
    "TimeRange",
    "moment_of",
    "new_id",
    "new_id_and_time",
    "project_of_key",
]
