"""Unknown members: what a JSON body has and its model does not. Pydantic ignores it in silence.

A model with `extra="allow"` keeps what it does not know, so nothing of it is unknown. A model may
name members that it accepts without using them: `ignored_members`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, TypeAlias, Union, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel, RootModel
from pydantic.fields import FieldInfo

from llmring_server.core.warnings import IGNORED_FIELDS

# Yields the paths of unknown members of a valid value, given its own path.
_Search: TypeAlias = Callable[[Any, str], Iterator[str]]


def unknown_members(model: type[BaseModel], value: Any) -> list[str]:
    """Return the paths of the members that `model` has no field for; `value` is valid for it."""
    search = _search_of_body(model)
    return [*search(value, "")] if search else []


def member_names(model: type[BaseModel]) -> frozenset[str]:
    """Return the names that a model reads from, and those that it ignores."""
    names = {name for key, field in model.model_fields.items() for name in _names(key, field)}
    return frozenset(names | getattr(model, "ignored_members", set()))


def _names(key: str, field: FieldInfo) -> Iterator[str]:
    alias = field.validation_alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias or key]
    for choice in choices:
        yield str(choice.path[0]) if isinstance(choice, AliasPath) else choice


@cache
def _search_of_body(model: type[BaseModel]) -> _Search | None:
    return _search_of(model)


@cache
def _members(model: type[BaseModel]) -> Mapping[str, _Search | None]:
    """Return the known members of a model, each with a search of its value if that has models."""
    members: dict[str, _Search | None] = dict.fromkeys(member_names(model) | IGNORED_FIELDS)
    for key, field in model.model_fields.items():
        for name in _names(key, field):
            members[name] = _search_of(field.annotation)
    return members


def _search_of(annotation: Any) -> _Search | None:
    """Return a search of values of a type; None if no value of it has unknown members."""
    if get_origin(annotation) is Annotated:
        return _search_of(get_args(annotation)[0])
    if get_origin(annotation) in {Union, UnionType}:
        # With several models, it is open which of them was read.
        searches = [*filter(None, map(_search_of, get_args(annotation)))]
        return searches[0] if len(searches) == 1 else None
    if get_origin(annotation) is list:
        return _search_of_list(_search_of(get_args(annotation)[0]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _search_of_model(annotation)
    return None


def _search_of_list(search: _Search | None) -> _Search | None:
    if search is None:
        return None

    def of_list(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield from search(item, f"{path}{index}.")

    return of_list


def _search_of_model(model: type[BaseModel]) -> _Search | None:
    if issubclass(model, RootModel):
        return _search_of(model.model_fields["root"].annotation)
    if model.model_config.get("extra") == "allow":
        return None

    def of_model(value: Any, path: str) -> Iterator[str]:
        if not isinstance(value, dict):
            return
        # Looked up here, since a model may contain itself.
        members = _members(model)
        for name, member in value.items():
            if name not in members:
                yield path + name
            elif search := members[name]:
                yield from search(member, f"{path}{name}.")

    return of_model
