"""Strict JSON: parsed and written exactly, within bounds of depth, width and number of values.

The bounds keep a small request from taking much memory. Numbers are exact, however many digits they
have, from the request to the stored text and back.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeAlias
from uuid import UUID

import jiter
import orjson
from pydantic import AfterValidator, BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from llmring_server.core.json_slices import NotJsonError, is_large, parse_in_slices
from llmring_server.errors import BadRequest, BodyTooLarge, InvalidRequest

# A string with at least one character that is not white space. `\S` would mean one thing to
# pydantic and another in the OpenAPI document: for ECMAScript U+0085 is not white space, U+FEFF is.
NOT_BLANK = r"[^\s\x85\ufeff]"

# Of a call and of most other bodies, whose fields are therefore one level less deep.
MAX_DEPTH = 32
# Of a schema, the content of a message, and the input and output of a tool. The parser allows 200
# levels, and orjson writes 254.
MAX_DOCUMENT_DEPTH = 128
MAX_KEYS = 10_000
MAX_KEY_LENGTH = 1024
MAX_VALUES = 500_000
MAX_SMALL_OBJECT_BYTES = 64 * 1024
# Of a text that is searched at once.
MAX_SLICE_CHARACTERS = 256 * 1024
# Many readers of JSON refuse a text with a larger number, or read it as infinite.
MAX_NUMBER = int(sys.float_info.max)
# What 64 bits hold, signed or unsigned; the maximum is exclusive.
MIN_INTEGER = -(2**63)
MAX_INTEGER = 2**64
# Larger exponents are written as such, so that 1e-400 does not become 400 digits.
_MAX_PLAIN_EXPONENT = 30

UNSTORABLE = "must not contain U+0000 or an unpaired surrogate"
UNSTORABLE_KEY = "must not have keys with U+0000 or an unpaired surrogate"
REPLACEMENT_CHARACTER = "\ufffd"

# Characters that JSON can express and PostgreSQL cannot store.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

_POSITION = re.compile(r" at line (\d+) column (\d+)$")

# In JSON, an escaped surrogate that is not one of a pair; or any surrogate encoded like other
# characters, which UTF-8 does not allow.
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_UNPAIRED_SURROGATE = re.compile(
    rb"%b(?!%b)|(?<!%b)%b|\xed[\xa0-\xbf][\x80-\xbf]" % (_HIGH, _LOW, _HIGH, _LOW)
)

# What every number with a fraction or an exponent contains. `[0-9]` is searched faster than `\d`.
_FRACTION = re.compile(rb"[0-9](?:\.[0-9]|[eE][-+0-9])")

_MAX_DECIMAL = Decimal(MAX_NUMBER)

# Decimals are computed without rounding, and without bounds of their exponents.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


_parse = partial(
    jiter.from_json,
    allow_inf_nan=False,
    float_mode="decimal",
    catch_duplicate_keys=True,
    cache_mode="keys",  # values are seldom repeated
)


class ParsedJson(NamedTuple):
    """A parsed text, and whether strings in it may contain U+0000.

    An unpaired surrogate is read as U+0000: PostgreSQL can store neither, and it is refused or
    replaced in the same way.
    """

    value: Any
    may_have_nul: bool


def parse_json(data: bytes) -> Any:
    """Parse strict JSON within all bounds: no duplicate keys, NaN or U+0000, exact numbers."""
    parsed = parse_request_json(data)
    if parsed.may_have_nul or data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        try:
            check_json(parsed.value)
        except ValueError as exc:
            raise InvalidRequest(f"body: {exc}") from exc
    return parsed.value


def parse_request_json(data: bytes, line: int = 1, column: int = 1) -> ParsedJson:
    """Parse strict JSON, whose model then checks the depth and the text of its fields.

    It starts at this line and column of the body.
    """
    check_values(data)
    if is_large(data):
        return _parse_large(data, line, column)
    return _parse_at_once(data, line, column)


def _parse_at_once(data: bytes, line: int, column: int) -> ParsedJson:
    try:
        return ParsedJson(_parse(data), b"\\u0000" in data)
    except ValueError as exc:
        repaired = _mark_unpaired_surrogates(data)
        if repaired == data:
            raise _not_strict(exc, line, column) from exc
    try:
        return ParsedJson(_parse(repaired), may_have_nul=True)
    except ValueError as exc:
        raise _not_strict(exc, line, column) from exc


def _parse_large(data: bytes, line: int, column: int) -> ParsedJson:
    may_have_nul = False

    def parse_slice(text: bytes, position: int) -> Any:
        nonlocal may_have_nul
        try:
            value = _parse(text)
        except ValueError:
            value, has_nul = _parse_at_once(text, *_place(data, position, line, column))
        else:
            has_nul = b"\\u0000" in text
        may_have_nul = may_have_nul or has_nul
        return value

    try:
        return ParsedJson(parse_in_slices(data, parse_slice), may_have_nul)
    except NotJsonError as exc:
        raise _not_strict(exc, *_place(data, exc.position, line, column)) from exc


def _place(data: bytes, position: int, line: int, column: int) -> tuple[int, int]:
    """Return the line and column of a position in data that starts at these."""
    more_lines = data.count(b"\n", 0, position)
    if not more_lines:
        return line, column + position
    return line + more_lines, position - data.rfind(b"\n", 0, position)


def _mark_unpaired_surrogates(data: bytes) -> bytes:
    """Return JSON in which unpaired surrogates are escapes of U+0000."""
    # An escaped backslash is set aside as a byte that JSON does not contain, since `\\ud800` is a
    # backslash and five letters.
    if b"\0" in data:
        return data
    data = data.replace(rb"\\", b"\0\0")
    return _UNPAIRED_SURROGATE.sub(rb"\\u0000", data).replace(b"\0\0", rb"\\")


def check_values(data: bytes) -> None:
    """Raise BodyTooLarge for a text that would take far more memory than its own length.

    An empty list is two bytes of JSON, and 60 in memory.
    """
    values = 0
    for start in range(0, len(data), MAX_VALUES) if len(data) > MAX_VALUES else ():
        values += sum(data.count(each, start, start + MAX_VALUES) for each in (b",", b"[", b"{"))
        if values > MAX_VALUES:
            raise BodyTooLarge(f"body: more than {MAX_VALUES} values")


def _not_strict(exc: ValueError, first_line: int, first_column: int) -> BadRequest:
    """Return the error of a text, without the caller's text that the parser's message repeats.

    Without a position in the message, this line and column are those of the error.
    """
    message = str(exc)
    position = _POSITION.search(message)
    reason = _POSITION.sub("", message)
    if "duplicate key" in reason:
        reason = "a key occurs twice"
    elif "InvalidOperation" in reason:  # an exponent beyond those of Decimal
        reason = "number out of range"
    if isinstance(exc, NotJsonError):
        reason += f", line {first_line}, column {first_column}"
    elif position:
        line, column = int(position[1]), int(position[2])
        if line == 1:
            column += first_column - 1
        reason += f", line {line + first_line - 1}, column {column}"
    return BadRequest(f"The body is not strict JSON: {reason}.")


@dataclass(frozen=True)
class JsonRules:
    """Marks a field as text or JSON of the caller's own, within these bounds.

    In free text, characters that cannot be stored become U+FFFD. Elsewhere they are refused: a name
    or an id must not change. The keys of objects are names.
    """

    free_text: bool = False
    max_depth: int = MAX_DEPTH - 1

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def check(self, value: Any) -> Any:
        """Return the value, or the one to store in its place; raise ValueError beyond a bound."""
        if _is_storable(value, self.max_depth):
            return value
        if not self.free_text:
            raise PydanticCustomError("unstorable_text", UNSTORABLE)
        return _replaced(value)


def check_json(value: Any) -> Any:
    """Return `value`; raise ValueError if it exceeds a bound, or if its text cannot be stored."""
    return JsonRules(max_depth=MAX_DEPTH).check(value)


def _is_storable(value: Any, max_depth: int) -> bool:
    """Tell whether PostgreSQL can store all text in `value`; raise ValueError beyond a bound."""
    if isinstance(value, str):
        return is_storable_text(value)
    storable = True
    pending = [(value, 1)] if isinstance(value, dict | list | tuple) else []
    while pending:
        item, depth = pending.pop()
        if depth > max_depth:
            raise PydanticCustomError("too_deep", f"must be nested at most {max_depth} deep")
        for member in _checked_members(item):
            # Most members are ASCII text, which passes here without a call for each.
            if isinstance(member, str):
                if "\0" in member or not (member.isascii() or is_storable_text(member)):
                    storable = False
            elif isinstance(member, dict | list | tuple):
                pending.append((member, depth + 1))
            elif isinstance(member, int | Decimal) and not _is_in_range(member):
                raise PydanticCustomError("number_too_large", "must not have numbers over 1.8e308")
    return storable


def _checked_members(item: Any) -> Iterable[Any]:
    """Return the members of a list, or those of an object, whose keys are checked."""
    if not isinstance(item, dict):
        return item  # type: ignore[no-any-return]
    if len(item) > MAX_KEYS:
        raise PydanticCustomError("too_many_keys", f"must have at most {MAX_KEYS:,} keys")
    for key in item:
        # Nearly all keys pass here.
        is_plain = isinstance(key, str) and key.isascii() and "\0" not in key
        if not is_plain or len(key) > MAX_KEY_LENGTH:
            _check_key(key)
    return item.values()


def _check_key(key: Any) -> None:
    if not isinstance(key, str):
        raise PydanticCustomError("key_type", "must have keys that are text")
    if len(key) > MAX_KEY_LENGTH:
        raise PydanticCustomError(
            "key_too_long", f"must have keys of at most {MAX_KEY_LENGTH:,} characters"
        )
    if not is_storable_text(key):
        raise PydanticCustomError("unstorable_text", UNSTORABLE_KEY)


def _is_in_range(number: int | Decimal) -> bool:
    if isinstance(number, Decimal):
        return number.is_finite() and -_MAX_DECIMAL <= number <= _MAX_DECIMAL
    return -MAX_NUMBER <= number <= MAX_NUMBER


def is_storable_text(text: str) -> bool:
    """Tell whether PostgreSQL can store `text`."""
    if "\0" in text:
        return False
    return text.isascii() or not any(map(_UNSTORABLE.search, _slices(text)))


def replace_unstorable(text: str) -> str:
    """Return `text` with U+FFFD for each character that PostgreSQL cannot store."""
    return "".join(_UNSTORABLE.sub(REPLACEMENT_CHARACTER, part) for part in _slices(text))


def _slices(text: str) -> Iterable[str]:
    """Return a text in parts: to search all of a long one would keep other threads waiting."""
    if len(text) <= MAX_SLICE_CHARACTERS:
        return (text,)
    return (
        text[start : start + MAX_SLICE_CHARACTERS]
        for start in range(0, len(text), MAX_SLICE_CHARACTERS)
    )


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return replace_unstorable(value)
    if isinstance(value, dict):
        return {key: _replaced(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(member) for member in value]
    return value


# A JSON object of the caller's own making.
JsonObject = Annotated[dict[str, Any], JsonRules()]
# The same, with text that is stored for people to read.
FreeJsonObject = Annotated[dict[str, Any], JsonRules(free_text=True)]


def encode_json(
    value: Any, default: Callable[[Any], Any] | None = None, option: int | None = None
) -> bytes:
    """Write JSON as `orjson.dumps` does, and integers of any size."""
    default = default or json_default
    try:
        return orjson.dumps(value, default, option)
    except TypeError:
        # It has an integer of more than 64 bits, or cannot be written at all.
        return orjson.dumps(_with_written_integers(value, default), default, option)


def _with_written_integers(value: Any, default: Callable[[Any], Any]) -> Any:
    """Return the value with the text of each integer that orjson cannot write."""
    if isinstance(value, BaseModel):
        value = default(value)
    elif is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _with_written_integers(member, default) for key, member in value.items()}
    if isinstance(value, list) or type(value) is tuple:
        return [_with_written_integers(member, default) for member in value]
    if isinstance(value, int) and not MIN_INTEGER <= value < MAX_INTEGER:
        return orjson.Fragment(str(value))
    return value


def dump_json(value: Any, what: str) -> bytes:
    """Write JSON; raise InvalidRequest, naming `what`, if JSON cannot express `value`."""
    try:
        return encode_json(value)
    except (TypeError, RecursionError) as exc:
        raise InvalidRequest(f"{what}: must be plain JSON") from exc


def load_json(text: str | bytes) -> Any:
    """Read stored JSON. A number is a Decimal if a float would not hold it exactly."""
    data = text.encode() if isinstance(text, str) else text
    if _FRACTION.search(data):
        return json.loads(data, parse_float=_exact_number)
    # Integers of any size are exact, which orjson reads as floats.
    return jiter.from_json(data, cache_mode="keys")


# How stored JSON is read: as a value, or for a response as the text that it is (a Fragment).
JsonReader: TypeAlias = Callable[[bytes], Any]


def _exact_number(text: str) -> float | Decimal:
    number, exact = float(text), Decimal(text)
    return number if Decimal(repr(number)) == exact else exact


def _check_small(value: dict[str, Any]) -> dict[str, Any]:
    if len(dump_json(value, "object")) > MAX_SMALL_OBJECT_BYTES:
        raise ValueError(f"must be at most {MAX_SMALL_OBJECT_BYTES // 1024} KiB of JSON")
    return value


# The same, small enough to be returned with every item of a list.
SmallJsonObject = Annotated[JsonObject, AfterValidator(_check_small)]
SmallFreeJsonObject = Annotated[FreeJsonObject, AfterValidator(_check_small)]


def dump_bounded_json(value: Any, what: str, max_bytes: int) -> str:
    """Write JSON to be stored; raise InvalidRequest, naming `what`, beyond `max_bytes`."""
    data = dump_json(value, what)
    if len(data) > max_bytes:
        raise InvalidRequest(f"{what}: must be at most {max_bytes // 1024:,} KiB of JSON")
    return data.decode()


def json_default(value: object) -> orjson.Fragment | str:
    """Write what orjson cannot: a Decimal as an exact JSON number, an id as text."""
    if isinstance(value, Decimal):
        value = value.normalize(_EXACT)
        text = str(value)
        if "E" in text and abs(value.adjusted()) < _MAX_PLAIN_EXPONENT:
            text = f"{value:f}"
        return orjson.Fragment(text)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError
