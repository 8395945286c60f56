"""Suggestions: the name that was probably meant."""

from difflib import get_close_matches
from functools import lru_cache


# Some clients send the same unknown field with every request.
@lru_cache(1024)
def did_you_mean(name: str, known: frozenset[str]) -> str:
    """Return " Did you mean origin?" for a name that is like one of the known; else nothing."""
    by_letters = {each.lower(): each for each in sorted(known)}
    alike = get_close_matches(name.lower(), by_letters, 1, cutoff=0.7)
    return f" Did you mean {by_letters[alike[0]]}?" if alike else ""
