"""Warnings: what a request said that is not stored as it was sent; returned with the result."""

from collections.abc import Sequence
from typing import Literal

from typing_extensions import TypedDict

from llmring_server.core.suggestions import did_you_mean
from llmring_server.errors import InvalidRequest

# `unknown_field`: ignored, since no field has this name. `replaced_characters`: U+0000 and lone
# surrogates, which PostgreSQL cannot store, became U+FFFD. `not_kept`: the rest was stored, this
# was not.
WarningCode = Literal["unknown_field", "replaced_characters", "not_kept"]


class RequestWarning(TypedDict):
    """A part of a request that is not stored as it was sent. `field` is its path: `usage.foo`."""

    code: WarningCode
    field: str
    detail: str


# Older clients send these with most objects: the key of a request determines its project.
IGNORED_FIELDS = frozenset({"api_key_id", "project_id"})

MAX_NAMED_FIELDS = 20
MAX_FIELD_LENGTH = 100


def unknown_field_warnings(fields: Sequence[str], known: frozenset[str]) -> list[RequestWarning]:
    """Warn of fields that are not among the known: the first ones by name, others by number."""
    warnings = [
        _unknown_field(field, f"No field has this name.{did_you_mean(field, known)}")
        for field in _named(fields)
    ]
    if more := len(fields) - len(warnings):
        warnings.append(_unknown_field("*", f"{more} more fields are unknown."))
    return warnings


def unknown_fields_error(
    fields: Sequence[str], known: frozenset[str], index: int | None = None
) -> InvalidRequest:
    """Return the error for unknown fields of a request, or of its item `index`, that is strict."""
    item = () if index is None else (index,)
    names = _named(fields)
    listed = ", ".join(names)
    if more := len(fields) - len(names):
        listed += f" and {more} more"
    errors = [
        {
            "type": "unknown_field",
            "loc": [*item, *name.split(".")],
            "msg": f"No field has this name.{did_you_mean(name, known)}",
        }
        for name in names
    ]
    hint = next(filter(None, (did_you_mean(name, known) for name in names)), "")
    listed += "." if hint else ""
    location = "".join(f"{part}: " for part in item)
    return InvalidRequest(f"{location}unknown fields: {listed}{hint and '.'}{hint}", errors=errors)


def shortened(field: str) -> str:
    """Return the path of a field, cut if it is very long."""
    return field if len(field) <= MAX_FIELD_LENGTH else field[:MAX_FIELD_LENGTH] + "\u2026"


def _named(fields: Sequence[str]) -> list[str]:
    return [shortened(field) for field in fields[:MAX_NAMED_FIELDS]]


def _unknown_field(field: str, detail: str) -> RequestWarning:
    return {"code": "unknown_field", "field": field, "detail": detail}
