"""Warnings: what a request said that is not stored as it was sent; returned with the result."""

from typing import Literal

from typing_extensions import TypedDict

# `unknown_field`: ignored, since no field has this name. `replaced_characters`: U+0000 and lone
# surrogates, which PostgreSQL cannot store, became U+FFFD. `not_kept`: the rest was stored, this
# was not.
WarningCode = Literal["unknown_field", "replaced_characters", "not_kept"]


class RequestWarning(TypedDict):
    """A part of a request that is not stored as it was sent. `field` is its path: `usage.foo`."""

    code: WarningCode
    field: str
    detail: str
