"""Amounts of money: exact decimals, without the trailing zeros of a database column."""

from decimal import Decimal


def decimal_text(amount: Decimal) -> str:
    """Write a decimal in plain notation, without trailing zeros."""
    return f"{amount.normalize():f}"


def without_trailing_zeros(amount: Decimal) -> Decimal:
    """Return the same amount without trailing zeros: 0.0003600000 becomes 0.00036."""
    return Decimal(decimal_text(amount))
