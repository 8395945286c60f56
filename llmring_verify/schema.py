"""Schema checks: the exact members of a document, and the form of each value."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from llmring_verify.canonical_json import MAX_SAFE_INTEGER, NotVerified

Predicate = Callable[[Any], object]
Schema = Mapping[str, Predicate]


def is_text(value: Any) -> bool:
    return type(value) is str


def is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_SAFE_INTEGER


def is_text_list(value: Any) -> bool:
    return type(value) is list and all(type(item) is str for item in value)


def is_object(value: Any) -> bool:
    return type(value) is dict


def matches(pattern: str) -> Predicate:
    fullmatch = re.compile(pattern, re.ASCII).fullmatch
    return lambda value: type(value) is str and fullmatch(value)


def one_of(*texts: str) -> Predicate:
    return lambda value: type(value) is str and value in texts


def nullable(predicate: Predicate) -> Predicate:
    return lambda value: value is None or predicate(value)


def object_of(schema: Schema) -> Predicate:
    """Accept an object with exactly these members."""
    return lambda value: (
        type(value) is dict
        and value.keys() == schema.keys()
        and all(predicate(value[name]) for name, predicate in schema.items())
    )


_looks_like_timestamp = matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def is_timestamp(value: Any) -> bool:
    """Accept a UTC time with six fractional digits, so that each time has one spelling."""
    if not _looks_like_timestamp(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


is_uuid = matches(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
is_sha256 = matches(r"[0-9a-f]{64}")
is_amount = matches(r"(0|[1-9]\d{0,23})\.\d{10}")


def validate(value: Any, schema: Schema, name: str) -> None:
    """Raise NotVerified unless the value is an object with exactly these members, all valid."""
    if type(value) is not dict:
        raise NotVerified(f"{name}: must be an object")
    if value.keys() != schema.keys():
        problems = [f"missing field {field}" for field in schema if field not in value]
        if unknown := len(value.keys() - schema.keys()):
            problems.append(f"{unknown} unknown field{'s' * (unknown != 1)}")
        raise NotVerified(f"{name}: {', '.join(problems)}")
    for field, predicate in schema.items():
        if not predicate(value[field]):
            raise NotVerified(f"{name}: invalid value for {field}")
