"""Invalid bodies of POST /api/v1/log, by the status of the response."""

import json

from tests.conftest import CALL

GOOD = json.dumps(CALL).encode()


def body(**fields: str) -> bytes:
    """A call with some fields spelled out in JSON."""
    added = "".join(f', "{name}": {value}' for name, value in fields.items())
    return (json.dumps(CALL)[:-1] + added + "}").encode()


def without(name: str, spelled: str) -> bytes:
    """A call with one of its fields replaced."""
    call = {key: value for key, value in CALL.items() if key != name}
    return (json.dumps(call)[:-1] + f', "{name}": {spelled}}}').encode()


NOT_JSON = {
    "empty": b"",
    "utf-16": GOOD.decode().encode("utf-16"),
    "bom": b"\xef\xbb\xbf" + GOOD,
    "overlong utf-8": b'{"model": "\xc0\xaf"}',
    "truncated utf-8": b'{"model": "\xe2\x82"}',
    "two documents": b"{}{}",
    "trailing comma": b'{"a": 1,}',
    "duplicate key": b'{"a": 1, "a": 2}',
    "deep duplicate key": body(metadata='{"a": {"b": 1, "b": 2}}'),
    "nested 1,000": body(metadata="[" * 1000 + "]" * 1000),
    "nested 100,000": body(metadata="[" * 100_000 + "]" * 100_000),
    "NaN": body(cost="NaN"),
    "Infinity": body(cost="Infinity"),
    "5,000 digits": without("input_tokens", "9" * 5000),
    "5,000 digits in metadata": body(metadata=f'{{"a": {"9" * 5000}}}'),
    "exponent of 20 digits": body(metadata='{"a": 1e99999999999999999999}'),
    "half a surrogate": body(metadata=r'{"a": "\ud8"}'),
    "raw control character": b'{"model": "\x00"}',
}

INVALID = {
    "null": b"null",
    "list": b"[]",
    "string": b'"x"',
    "nothing in it": b"{}",
    "nested 33": body(metadata='{"a":' + "[" * 32 + "]" * 32 + "}"),
    "1e400": body(cost="1e400"),
    "1e131071": body(metadata='{"a": 1e131071}'),
    "-1e309": body(metadata='{"a": [[-1e309]]}'),
    "1e999999999": body(metadata='{"a": 1e999999999}'),
    "310 digits": body(metadata=f'{{"a": {"9" * 310}}}'),
    **{
        f"{text} in {name}": without(name, json.dumps("a#b").replace("#", text))
        for name in ("provider", "model", "alias", "profile", "origin", "id_at_origin")
        for text in (r"\u0000", r"\ud800", r"\uDFFF")
    },
    "NUL in service_tier": body(service_tier=r'"a\u0000"'),
    "NUL in a key": body(metadata=r'{"\u0000": 1}'),
    "NUL in a deep key": body(metadata=r'{"a": [{"b\u0000": 1}]}'),
    "lone surrogate in a key": body(metadata=r'{"\ud800": 1}'),
    "NUL beside replaced text": body(metadata=r'{"a": "\u0000"}', alias=r'"\u0000"'),
    "10,001 keys": body(metadata=json.dumps(dict.fromkeys(map(str, range(10_001)), 0))),
    "key of 10 KB": body(metadata=json.dumps({"k" * 10_240: 1})),
    "metadata over 64 KiB": body(metadata=json.dumps({"k": "v" * 65_536})),
    "metadata list": body(metadata="[]"),
    **{
        f"{name} -1": body(**{name: "-1"}) for name in ("cached_input_tokens", "latency_ms", "cost")
    },
    **{
        f"tokens {spelled}": without("input_tokens", spelled)
        for spelled in (
            "-1",
            "9007199254740992",
            "1" + "0" * 30,
            "true",
            '"12 x"',
            "1.5",
        )
    },
    "cost as text": body(cost='"0.1 x"'),
    "cost over the limit": body(cost="1000000001"),
    "latency over int4": body(latency_ms="2147483648"),
    **{
        f"{name} of {longest + 1}": without(name, json.dumps("x" * (longest + 1)))
        for name, longest in {
            "model": 255,
            "provider": 50,
            "alias": 128,
            "profile": 64,
            "origin": 255,
            "id_at_origin": 1024,
        }.items()
    },
    "empty model": without("model", '""'),
    "blank provider": without("provider", '"  "'),
    "unknown status": body(status='"lost"'),
    **{
        f"logged_at {moment}": body(logged_at=json.dumps(moment))
        for moment in (
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59-23:59",
            "2010-01-01T00:00:00Z",
            "2026-02-30T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-06-30T23:59:60Z",
            "2026-11-01T00:00:00",
        )
    },
}

# Metadata of valid calls in which PostgreSQL cannot store some characters, and what is stored.
REPLACED = {
    "NUL": (rb'{"a": "x\u0000y"}', {"a": "x\ufffdy"}),
    "several NULs": (rb'{"a": ["\u0000\u0000"]}', {"a": ["\ufffd\ufffd"]}),
    "high surrogate": (rb'{"a": "x\ud800y"}', {"a": "x\ufffdy"}),
    "high surrogate at the end": (rb'{"a": "x\ud83d"}', {"a": "x\ufffd"}),
    "low surrogate": (rb'{"a": {"b": "\uDE00"}}', {"a": {"b": "\ufffd"}}),
    "two high surrogates": (rb'{"a": "\ud83d\ud83d"}', {"a": "\ufffd\ufffd"}),
    "surrogate before a pair": (rb'{"a": "\ud83d\ud83d\ude00"}', {"a": "\ufffd😀"}),
    "surrogate after a pair": (rb'{"a": "\ud83d\ude00\ude00"}', {"a": "😀\ufffd"}),
    "surrogates in reverse": (rb'{"a": "\ude00\ud83d"}', {"a": "\ufffd\ufffd"}),
    "surrogate after a backslash": (rb'{"a": "\\\ud800"}', {"a": "\\\ufffd"}),
    "surrogate beside escapes": (
        rb'{"a": "\\ud800 \ud800\n\"\u00fc\u0000"}',
        {"a": '\\ud800 \ufffd\n"ü\ufffd'},
    ),
    "surrogate as bytes": (b'{"a": "x\xed\xa0\x80y"}', {"a": "x\ufffdy"}),
    "deep text": (rb'{"a": [[{"b": ["\u0000", "c"]}]]}', {"a": [[{"b": ["\ufffd", "c"]}]]}),
}
