"""What a document must look like, field by field. What no shape approves, nobody verifies."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from llmring_verify.canonical_json import MOST, Refused

Test = Callable[[Any], object]
Shape = Mapping[str, Test]


def text(value: Any) -> bool:
    return type(value) is str


def count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST


def texts(value: Any) -> bool:
    return type(value) is list and all(type(each) is str for each in value)


def like(pattern: str) -> Test:
    match = re.compile(pattern, re.ASCII).fullmatch
    return lambda value: type(value) is str and match(value)


def one_of(*texts: str) -> Test:
    return lambda value: type(value) is str and value in texts


def nullable(test: Test) -> Test:
    return lambda value: value is None or test(value)


def record(shape: Shape) -> Test:
    """Approve an object of exactly these members."""
    return lambda value: (
        type(value) is dict
        and value.keys() == shape.keys()
        and all(test(value[name]) for name, test in shape.items())
    )


_is_moment = like(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def moment(value: Any) -> bool:
    """Approve a time in UTC, of six digits: one spelling for one time."""
    if not _is_moment(value):
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


uuid = like(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
digest = like(r"[0-9a-f]{64}")
amount = like(r"(0|[1-9]\d{0,23})\.\d{10}")


def check(value: Any, shape: Shape, noun: str) -> None:
    """Refuse what has not exactly these members, each of its own form."""
    if type(value) is not dict:
        raise Refused(f"{noun} must be an object")
    if value.keys() != shape.keys():
        missing = [f"lacks {name}" for name in shape if name not in value]
        unknown = len(value.keys() - shape.keys())
        told = missing + ([f"has {unknown} unknown fields"] if unknown else [])
        raise Refused(f"{noun} {', '.join(told)}")
    for name, test in shape.items():
        if not test(value[name]):
            raise Refused(f"{noun}: {name} is not of its form")
