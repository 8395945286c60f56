"""The settings of llmring-server 0.1, at their former path and by their former names."""

from enum import StrEnum
from typing import Any

from pydantic import model_validator

from llmring_server import settings
from llmring_server.core.variables import FORMER_NAMES

# What to use instead of the settings that are gone.
REPLACEMENTS = {
    "api_key_validation_mode": (
        "set auth instead: keys accepts issued keys only, as strict did, and open accepts any key,"
        " as bridge did"
    ),
    "enable_conversation_tracking": (
        "conversations cannot be turned off; conversation_content='none' stores no messages"
    ),
    "message_retention_days": (
        "set the retention of each project with `llmring-server projects retain`, and run"
        " `llmring-server db maintain` daily"
    ),
    "redis_url": "the server needs no Redis; registry_ttl sets how long the registry is kept",
    "enforce_membership_verification": "auth sets who may access a project",
}


class MessageLoggingLevel(StrEnum):
    """What is stored of messages: nothing, all but their content, or everything."""

    NONE = "none"
    METADATA = "metadata"
    FULL = "full"


class Settings(settings.Settings):
    """Settings that are read from the environment when they are created, as in llmring-server 0.1.

    Arguments take precedence, and may have the former names of settings.
    """

    def __init__(self, **values: Any) -> None:
        environment = settings.Settings.from_env()
        super().__init__(**environment.model_dump(exclude_unset=True) | _current_names(values))

    @model_validator(mode="before")
    @classmethod
    def _has_no_former_names(cls, values: dict[str, Any]) -> dict[str, Any]:
        for name, replacement in REPLACEMENTS.items():
            if name in values:
                raise ValueError(f"{name} is no setting any more: {replacement}")
        return values

    @property
    def message_logging_level(self) -> MessageLoggingLevel:
        return MessageLoggingLevel(self.conversation_content)

    @property
    def registry_base_url(self) -> str:
        return f"{self.registry_url}/"

    @property
    def cache_ttl(self) -> int:
        return int(self.registry_ttl)


def _current_names(values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings by their current names, and without those that ask for the default."""
    current: dict[str, Any] = {}
    for name, value in values.items():
        if name == "enable_conversation_tracking" and value is True:
            continue
        if name == "api_key_validation_mode" and value == "strict":
            current["auth"] = "keys"
        else:
            plain = value.value if isinstance(value, MessageLoggingLevel) else value
            current[FORMER_NAMES.get(name, name)] = plain
    return current
