"""MCP prompts: the arguments that they declare, and rendering with arguments."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from llmring_server.errors import InvalidRequest
from llmring_server.templates.rendering import (
    MAX_REPORTED_NAME_CHARACTERS,
    MAX_REPORTED_NAMES,
    MAX_RESULT_CHARACTERS,
    TokenBudget,
    render_template,
)

# Of texts with placeholders, in one prompt.
MAX_TEXTS = 200


class ArgumentSpec(NamedTuple):
    """The arguments that a prompt declares, and those that it requires."""

    names: frozenset[str]
    required: frozenset[str]


def argument_spec(arguments: dict[str, Any] | list[dict[str, Any]] | None) -> ArgumentSpec:
    """Read the declaration of a prompt's arguments: MCP's list, an object, or a JSON schema."""
    is_required = dict(_declared(arguments or {}))
    return ArgumentSpec(
        names=frozenset(is_required),
        required=frozenset(name for name, required in is_required.items() if required),
    )


def _declared(arguments: dict[str, Any] | list[dict[str, Any]]) -> Iterator[tuple[str, bool]]:
    """Yield each argument's name, and whether it is required."""
    if isinstance(arguments, list):
        for argument in arguments:
            if isinstance(argument.get("name"), str):
                yield argument["name"], argument.get("required") is True
    elif isinstance(properties := arguments.get("properties"), dict):
        required = arguments.get("required")
        for name in properties:
            yield name, isinstance(required, list) and name in required
    else:
        for name, argument in arguments.items():
            yield name, isinstance(argument, dict) and argument.get("required") is True


def check_arguments(spec: ArgumentSpec, arguments: Mapping[str, Any]) -> None:
    """Raise InvalidRequest if a required argument is missing or an argument is unknown.

    A prompt that declares no arguments accepts any.
    """
    if missing := spec.required - arguments.keys():
        raise InvalidRequest(f"arguments: missing: {_listed(missing)}", "missing_arguments")
    if spec.names and (unknown := arguments.keys() - spec.names):
        # Unknown names are the caller's text, which no message repeats.
        raise InvalidRequest(
            f"arguments: {len(unknown)} unknown; this prompt takes: {_listed(spec.names)}"
        )


def _listed(names: Collection[str]) -> str:
    return ", ".join(
        name[:MAX_REPORTED_NAME_CHARACTERS] for name in sorted(names)[:MAX_REPORTED_NAMES]
    )


def render_prompt(content: Any, spec: ArgumentSpec, arguments: Mapping[str, Any]) -> Any:
    """Render every text of a prompt; optional arguments that are missing are empty."""
    return _Renderer({**dict.fromkeys(spec.names, ""), **arguments}).render(content)


class _Renderer:
    """Renders the texts of one prompt within limits that hold for all of them together."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments
        self._texts = 0
        self._length = 0
        self._budget = TokenBudget()

    def render(self, content: Any) -> Any:
        if isinstance(content, dict):
            return {key: self.render(member) for key, member in content.items()}
        if isinstance(content, list):
            return [self.render(member) for member in content]
        if isinstance(content, str) and "{" in content:
            return self._render_text(content)
        return content

    def _render_text(self, text: str) -> str:
        self._texts += 1
        if self._texts > MAX_TEXTS:
            raise InvalidRequest(
                f"content: more than {MAX_TEXTS} texts with placeholders", "invalid_template"
            )
        rendered = render_template(text, self._arguments, self._budget)
        self._length += len(rendered)
        if self._length > MAX_RESULT_CHARACTERS:
            raise InvalidRequest(
                f"arguments: the rendered prompt exceeds {MAX_RESULT_CHARACTERS:,} characters",
                "result_too_long",
            )
        return rendered
