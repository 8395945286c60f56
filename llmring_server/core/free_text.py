"""Free text in a request: characters that cannot be stored are replaced there, and reported."""

from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel
from pydantic.fields import FieldInfo

from llmring_server.core.strict_json import (
    UNSTORABLE,
    UNSTORABLE_KEY,
    JsonRules,
    is_storable_text,
    replace_unstorable,
)
from llmring_server.core.warnings import RequestWarning
from llmring_server.errors import InvalidRequest

# Of one body: more texts are replaced, but not reported one by one.
MAX_WARNINGS = 100
MAX_PATH_CHARACTERS = 255

DETAIL = "U+0000 or an unpaired surrogate cannot be stored: it is now U+FFFD."

# The members of objects and the indices of arrays that lead to a value.
Path = tuple[str | int, ...]


class _Found(NamedTuple):
    """The path of a text that cannot be stored, or of the object that has it as a key."""

    path: Path
    is_key: bool


class _Declared(NamedTuple):
    """Whether a model declares free text on a path, and the length of the part that it declares.

    `labelled` is the innermost model on the path that errors name, and where its object begins.
    """

    free_text: bool
    length: int
    labelled: tuple[type[BaseModel], int] | None = None


def replace_in_free_text(model: type[BaseModel], body: Any, at: Path = ()) -> list[RequestWarning]:
    """Replace in a parsed body what cannot be stored, where `model` has free text.

    Return what was replaced. InvalidRequest if it is elsewhere. Members that the model does not
    know are free text: it ignores them, or keeps them as they are. `at` is where in the request the
    body is, which an error tells.
    """
    found = list(_find(body))
    for path, is_key in found:
        declared = _declared(model, (), path, 0)
        if is_key or not declared.free_text:
            # Without the rest of the path, which are the caller's own names.
            location = at + path[: declared.length]
            message = UNSTORABLE_KEY if is_key else UNSTORABLE
            if label := _label(declared, path, body):
                message += f" ({label})"
            raise InvalidRequest(
                f"{_text(location) or 'body'}: {message}",
                errors=[{"type": "unstorable_text", "loc": location, "msg": message}],
            )
    for path, _ in found:
        _replace(body, path)
    warnings = [_warning(path) for path, _ in found[:MAX_WARNINGS]]
    if len(found) > MAX_WARNINGS:
        warnings[-1]["detail"] += f" So are {len(found) - MAX_WARNINGS:,} more texts."
    return warnings


def _label(declared: _Declared, path: Path, body: Any) -> str | None:
    """Return how errors name the object on the path, if its model says."""
    if declared.labelled is None:
        return None
    model, length = declared.labelled
    for part in path[:length]:
        body = body[part]
    # Only models that have this method are `labelled`.
    label: str | None = model.label_in_errors(body)  # type: ignore[attr-defined]
    return label


def _find(body: Any) -> Iterator[_Found]:
    if isinstance(body, str) and not is_storable_text(body):
        yield _Found((), is_key=False)
    pending: list[tuple[Path, Any]] = [((), body)]
    while pending:
        path, value = pending.pop()
        members: Iterable[tuple[str | int, Any]] = ()
        if isinstance(value, dict):
            members = value.items()
            if not all(map(is_storable_text, value)):
                yield _Found(path, is_key=True)
        elif isinstance(value, list):
            members = enumerate(value)
        for part, member in members:
            if isinstance(member, dict | list):
                pending.append(((*path, part), member))
            elif isinstance(member, str) and not is_storable_text(member):
                yield _Found((*path, part), is_key=False)


def _replace(body: Any, path: Path) -> None:
    *parents, last = path
    for part in parents:
        body = body[part]
    body[last] = replace_unstorable(body[last])


def _warning(path: Path) -> RequestWarning:
    return {"code": "replaced_characters", "field": _text(path), "detail": DETAIL}


def _text(path: Path) -> str:
    text = ".".join(map(str, path))
    return text if len(text) <= MAX_PATH_CHARACTERS else f"{text[: MAX_PATH_CHARACTERS - 3]}..."


def _declared(kind: Any, metadata: tuple[Any, ...], path: Path, at: int) -> _Declared:
    """Follow `path` from its part `at` through the type `kind`, which has this metadata."""
    for rules in metadata:
        if isinstance(rules, JsonRules):
            return _Declared(rules.free_text, at)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _declared(arguments[0], arguments[1:], path, at)
    if origin in {Union, UnionType}:
        # Text that one kind refuses may be free text in another.
        by_kind = [_declared(argument, (), path, at) for argument in arguments]
        return max(by_kind, key=lambda each: (each.free_text, each.length))
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _declared_by_model(kind, path, at)
    if at < len(path) and origin in {list, dict}:
        return _declared(arguments[-1], (), path, at + 1)
    return _Declared(free_text=False, length=at)


def _declared_by_model(model: type[BaseModel], path: Path, at: int) -> _Declared:
    declared = _declared_by_field(model, path, at)
    if declared.labelled is None and hasattr(model, "label_in_errors"):
        return declared._replace(labelled=(model, at))
    return declared


def _declared_by_field(model: type[BaseModel], path: Path, at: int) -> _Declared:
    if issubclass(model, RootModel):
        root = model.model_fields["root"]
        return _declared(root.annotation, tuple(root.metadata), path, at)
    if at == len(path):
        return _Declared(free_text=False, length=at)
    for name, field in model.model_fields.items():
        if path[at] in _names(name, field):
            return _declared(field.annotation, tuple(field.metadata), path, at + 1)
    return _Declared(free_text=True, length=at)


def _names(name: str, field: FieldInfo) -> list[Any]:
    """Return the names under which a body may have a field."""
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
    return [choice.path[0] if isinstance(choice, AliasPath) else choice for choice in choices]
