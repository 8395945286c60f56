"""Prompts of MCP servers, filled in: their arguments checked, and put where the text names them."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from llmring_server.errors import InvalidRequest
from llmring_server.templates.rendering import (
    MAX_REPORTED_NAME_CHARACTERS,
    MAX_REPORTED_NAMES,
    MAX_RESULT_CHARACTERS,
    TokenBudget,
    render_template,
)

# Of texts with something to fill in.
MAX_TEXTS = 200


class ArgumentSpec(NamedTuple):
    """The arguments that a prompt takes, and those that it must have."""

    names: frozenset[str]
    required: frozenset[str]


def argument_specs(arguments: dict[str, Any] | list[dict[str, Any]] | None) -> ArgumentSpec:
    """Read any of the forms of a declaration: MCP's list, an object, a JSON schema."""
    known = dict(_named(arguments or {}))
    return ArgumentSpec(
        frozenset(known), frozenset(name for name, needed in known.items() if needed)
    )


def _named(arguments: dict[str, Any] | list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    if isinstance(arguments, list):
        for each in arguments:
            if isinstance(each.get("name"), str):
                yield each["name"], each.get("required") is True
    elif isinstance(of := arguments.get("properties"), dict):
        required = arguments.get("required")
        for name in of:
            yield name, isinstance(required, list) and name in required
    else:
        for name, each in arguments.items():
            yield name, isinstance(each, dict) and each.get("required") is True


def check_arguments(takes: ArgumentSpec, given: Mapping[str, Any]) -> None:
    """Raise Invalid if an argument is missing, or if there is none of that name."""
    if missing := takes.required - given.keys():
        raise InvalidRequest(f"arguments: missing: {_listed(missing)}", "missing_arguments")
    if takes.names and (unknown := given.keys() - takes.names):
        raise InvalidRequest(f"arguments: {len(unknown)} unknown: it takes {_listed(takes.names)}")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(
        name[:MAX_REPORTED_NAME_CHARACTERS] for name in sorted(names)[:MAX_REPORTED_NAMES]
    )


def render_prompt(content: Any, takes: ArgumentSpec, given: Mapping[str, Any]) -> Any:
    """Fill in every text of a prompt; an argument that was not given, and need not be, is empty."""
    return _Renderer({**dict.fromkeys(takes.names, ""), **given}).of(content)


class _Renderer:
    """Texts are filled in one by one, and bounded together."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._texts = self._length = 0
        self._budget = TokenBudget()

    def of(self, content: Any) -> Any:
        if isinstance(content, dict):
            return {key: self.of(member) for key, member in content.items()}
        if isinstance(content, list):
            return [self.of(member) for member in content]
        return self._text(content) if isinstance(content, str) and "{" in content else content

    def _text(self, text: str) -> str:
        self._texts += 1
        if self._texts > MAX_TEXTS:
            raise InvalidRequest(
                f"content: more than {MAX_TEXTS} texts to fill in", "invalid_template"
            )
        made = render_template(text, self._arguments, self._budget)
        self._length += len(made)
        if self._length > MAX_RESULT_CHARACTERS:
            raise InvalidRequest(
                f"arguments: more than {MAX_RESULT_CHARACTERS} characters come out",
                "result_too_long",
            )
        return made
