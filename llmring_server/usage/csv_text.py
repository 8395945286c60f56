"""Text in CSV: safe to open in a spreadsheet, and read back as it was."""

# A spreadsheet may run a cell that begins like a formula:
# https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")
_QUOTE = "'"


def quote_formula(text: str) -> str:
    """Write a text that begins like a formula, after quotes or not, with one quote before it."""
    return _QUOTE + text if text.lstrip(_QUOTE).startswith(_FORMULA_PREFIXES) else text


def unquote_formula(text: str) -> str:
    """Read what `quote_formula` wrote."""
    quoted = text.startswith(_QUOTE) and text.lstrip(_QUOTE).startswith(_FORMULA_PREFIXES)
    return text[1:] if quoted else text
