"""Numbers from JSON: a number without a fraction is an integer, however it is written."""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

# The largest integer that every JSON parser reads exactly.
MAX_COUNT = 2**53 - 1

# Numbers of 64 bits have at most this many digits. Longer ones are refused before they are written
# out: 1e999999999 is eleven characters of JSON, and a gigabyte as an integer.
_MAX_DIGITS = 20

_NOT_A_NUMBER = Decimal("NaN")
# The first servers took integers that are written as text, and some clients send them.
_DIGITS = re.compile(r"\d{1,15}", re.ASCII)


def whole_number(value: object) -> int:
    """Return a number without a fraction as an integer, as JSON Schema 2020-12 has it: 12.0 is 12.

    ValueError for every other value.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = _plain_decimal(value)
    if number != number.to_integral_value():
        raise ValueError("must be an integer")
    return int(number)


def rounded_number(value: object) -> int:
    """Return a number of at least 0 as the nearest integer; a half is rounded to the even one."""
    number = _plain_decimal(value)
    if number < 0:
        raise ValueError("must be at least 0")
    return int(number.to_integral_value())


def _plain_decimal(value: object) -> Decimal:
    is_number = isinstance(value, float | Decimal) or (
        isinstance(value, str) and _DIGITS.fullmatch(value)
    )
    number = Decimal(value) if is_number else _NOT_A_NUMBER  # type: ignore[arg-type]
    if not number.is_finite() or number.adjusted() >= _MAX_DIGITS:
        raise ValueError("must be an integer of at most 64 bits")
    return number


# Of pydantic: "Input should be a valid integer", or "number".
ErrorType = Literal["int_type", "float_type"]


class _FromNumber:
    """Converts a number to the integer that the annotated type validates.

    Integers are recognised by pydantic itself: a function in Python would take longer than the
    rest of their validation.
    """

    def __init__(
        self, convert: Callable[[object], int], json_type: str, error_type: ErrorType
    ) -> None:
        self._convert = convert
        self._json_type = json_type
        self._error_type = error_type

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        number = core_schema.union_schema(
            [
                core_schema.int_schema(strict=True),
                core_schema.no_info_plain_validator_function(self._convert),
            ],
            mode="left_to_right",
            custom_error_type=self._error_type,
        )
        return core_schema.chain_schema([number, handler(source)])

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        bounded: CoreSchema = schema["steps"][-1]
        described = handler(bounded)
        digits = len(str(described.get("maximum", described.get("exclusiveMaximum", 10**15)))) - 1
        first = "[1-9]" if "exclusiveMinimum" in described else "[0-9]"
        pattern = f"^{first}[0-9]{{0,{digits - 1}}}$"
        return described | {"type": [self._json_type, "string"], "pattern": pattern}


# To be the last annotation of an integer with its bounds.
WHOLE = _FromNumber(whole_number, "integer", "int_type")
ROUNDED = _FromNumber(rounded_number, "number", "float_type")

Count = Annotated[int, Field(ge=0, le=MAX_COUNT), WHOLE]
Milliseconds = Annotated[int, Field(ge=0, le=2**31 - 1), ROUNDED]
