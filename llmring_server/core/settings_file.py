"""Settings files: TOML with one key for each setting, named as in code."""

import re
import stat
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from llmring_server.core.suggestions import did_you_mean
from llmring_server.errors import InvalidSettings

_PLACE = re.compile(r"at line \d+, column \d+")


def read_settings_file(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Return the settings in a file; raise InvalidSettings if one has none of `names`.

    No error quotes a value, which may be a secret.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as exc:
        raise InvalidSettings(f"{path}: the file cannot be read: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise InvalidSettings(f"{path}: the file is not UTF-8 text.") from exc
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        place = _PLACE.search(str(exc))
        where = place[0] if place else "at its end"
        # The parser's text might contain a part of a value.
        raise InvalidSettings(
            f"{path}: the file is not valid TOML {where}. Write lines such as rate_limit = 5 or"
            ' auth = "keys".'
        ) from None
    errors = [
        f"{path}: {error}"
        for name, value in values.items()
        if (error := _error(name, value, names))
    ]
    if errors:
        raise InvalidSettings("\n".join(errors))
    return values


def _error(name: str, value: object, names: Collection[str]) -> str | None:
    """Return what is wrong with a key, apart from its value."""
    if isinstance(value, Mapping):
        return (
            f"{_shown(name)}: settings are not grouped into tables; write them before any [table]."
        )
    if name in names:
        return None
    known = frozenset(names)
    hint = did_you_mean(name.lower().removeprefix("llmring_"), known)
    return f"{_shown(name)} is not a setting.{hint}"


def _shown(name: str) -> str:
    """Return a key, unless it may be a value in the wrong place."""
    return name if re.fullmatch("[A-Za-z0-9_-]{1,60}", name) else "a key"


def is_readable_by_everyone(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_IROTH)
