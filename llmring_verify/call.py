"""One call as a receipt tells of it, and as a batch commits to it: the entry of its leaf."""

import re
from decimal import Context, Decimal, Inexact, InvalidOperation
from typing import Any

from llmring_verify import shape
from llmring_verify.schema import count, nullable, one_of, record, text
from llmring_verify.canonical_json import Refused, canonical

VERSION = "llmring-call/1"

TOKENS = {"input": count, "output": count, "cached_input": count}
_COST = record(
    {
        "currency": one_of("USD"),
        "amount": nullable(shape.amount),
        "source": one_of("client", "override", "registry", "offline", "unpriced"),
    }
)
_is_name = re.compile(r"[a-z0-9_]{1,64}", re.ASCII).fullmatch
_UNIT = Decimal(1).scaleb(-10)
_EXACT = Context(prec=40, traps=[Inexact, InvalidOperation])
_PREFIX = f"{VERSION}\n".encode()


def _cost(value: Any) -> bool:
    return bool(_COST(value)) and (value["amount"] is None) == (value["source"] == "unpriced")


def _details(value: Any) -> bool:
    return (
        type(value) is dict
        and bool(value)
        and all(_is_name(name) and (text(each) or count(each)) for name, each in value.items())
    )


FIELDS = {
    "log_id": shape.uuid,
    "logged_at": shape.moment,
    "provider": text,
    "model": text,
    "alias": nullable(text),
    "profile": text,
    "origin": nullable(text),
    "id_at_origin": nullable(text),
    "conversation_id": nullable(shape.uuid),
    "status": one_of("ok", "error", "timeout", "cancelled"),
    "latency_ms": nullable(count),
    "tokens": record(TOKENS),
    "details": nullable(_details),
    "cost": _cost,
}
SHAPE = {"v": one_of(VERSION), **FIELDS}


def entry(call: dict[str, Any]) -> bytes:
    """Return what the leaf of a call is the hash of. It is canonical if the call passes `check`."""
    return _PREFIX + canonical(call)


def check(call: Any) -> None:
    """Refuse what is not a call, to the letter."""
    shape.check(call, SHAPE, "call")


def from_export(line: dict[str, Any]) -> dict[str, Any]:
    """Return the call that a line of `GET /api/v1/logs/export?format=jsonl` tells of; Refused.

    The line has been parsed with numbers as Decimals. Its `cost` may have changed since the call
    was stored, so it is `first_cost` that counts; its metadata are no part of a receipt.
    """
    try:
        call = _told(line)
    except (KeyError, TypeError, ArithmeticError):
        raise Refused("line: not of an export in JSON lines with `first_cost`") from None
    check(call)
    return call


def _told(line: dict[str, Any]) -> dict[str, Any]:
    names = ("input", "output", "cached_input")
    return {
        "v": VERSION,
        **{name: line[name] for name in FIELDS.keys() & line.keys() - {"cost"}},
        "log_id": line["id"],
        "logged_at": _six_digits(line["logged_at"]),
        "tokens": {name: line[f"{name}_tokens"] for name in names},
        "cost": {
            "currency": "USD",
            "amount": _ten_places(line["first_cost"]),
            "source": line["first_cost_source"],
        },
    }


def _ten_places(amount: Any) -> str | None:
    if amount is None:
        return None
    if type(amount) not in {int, Decimal}:
        raise TypeError
    return f"{_EXACT.quantize(Decimal(amount), _UNIT):f}"


def _six_digits(moment: Any) -> str:
    if type(moment) is not str:
        raise TypeError
    return moment.removesuffix("Z") + ".000000Z" if "." not in moment else moment
