"""Variables of the environment that begin with LLMRING_: settings, former settings and others."""

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path

from llmring_server.errors import InvalidSettings

PREFIX = "LLMRING_"

# Names a settings file, which variables take precedence over.
CONFIG = "LLMRING_CONFIG"

# Of the client `llmring`, which may share an environment with a server.
CLIENT_VARIABLES = (
    "LLMRING_ALLOWED_CONTENT_TYPES",
    "LLMRING_ALLOWED_HOSTS",
    "LLMRING_ALLOW_REMOTE_URLS",
    "LLMRING_API_KEY",
    "LLMRING_CONNECT_TIMEOUT_S",
    "LLMRING_INLINE_REMOTE_IMAGES",
    "LLMRING_LOCKFILE_PATH",
    "LLMRING_MAX_DOWNLOAD_SIZE_BYTES",
    "LLMRING_PREFER_SAAS",
    "LLMRING_PROFILE",
    "LLMRING_PROVIDER_TIMEOUT_S",
    "LLMRING_READ_TIMEOUT_S",
    "LLMRING_RETRY_ATTEMPTS",
    "LLMRING_RETRY_BASE_S",
    "LLMRING_RETRY_MAX_S",
    "LLMRING_SERVER_URL",
    "LLMRING_TOTAL_TIMEOUT_S",
)
# Of this server, without being settings: of the embedded PostgreSQL, and the file of settings.
_OTHER_VARIABLES = ("LLMRING_DATA_DIR", "LLMRING_PG_OS_USER", CONFIG)
# Of tests.
_TEST_PREFIX = "LLMRING_TEST_"

# Settings of llmring-server 0.1 that have another name now, and the variables that set them.
FORMER_NAMES = {
    "message_logging_level": "conversation_content",
    "registry_base_url": "registry_url",
    "cache_ttl": "registry_ttl",
}
RENAMED = {PREFIX + former.upper(): name for former, name in FORMER_NAMES.items()}
_VALIDATION_MODE = "LLMRING_API_KEY_VALIDATION_MODE"
_TRACKING = "LLMRING_ENABLE_CONVERSATION_TRACKING"
_LEVEL = "LLMRING_CONVERSATION_CONTENT"

# What to use instead of the variables of llmring-server 0.1 that have no effect.
_REPLACEMENTS = {
    _VALIDATION_MODE: (
        "set LLMRING_AUTH instead: keys accepts issued keys only, as strict did, and open accepts"
        " any key, as bridge did"
    ),
    _TRACKING: f"{_LEVEL} sets what is stored of conversations",
    "LLMRING_MESSAGE_RETENTION_DAYS": (
        "it deletes no messages. Set the retention of each project with `llmring-server projects"
        " retain`, and run `llmring-server db maintain` daily"
    ),
    "LLMRING_REDIS_URL": (
        "the server needs no Redis. LLMRING_REGISTRY_TTL sets how long the model registry is kept"
    ),
    "LLMRING_ENFORCE_MEMBERSHIP_VERIFICATION": (
        "LLMRING_AUTH sets who may access a project; in mode proxy, a trusted proxy signs each"
        " request"
    ),
    "LLMRING_API_PREFIX": "mount the app below a prefix, or let a proxy in front remove it",
    "LLMRING_RECEIPTS_KEY_ID": (
        "the id of a signing key is computed from LLMRING_RECEIPTS_PRIVATE_KEY_B64"
    ),
    "LLMRING_PORT": "use the option --port of `llmring-server serve`",
    "LLMRING_HTTP_PORT": "use the option --port of `llmring-server serve`",
    "LLMRING_DEV_PORT": "use the option --port of `llmring-server serve`",
}
# Names that other programs use too, so that they are only told.
_WITHOUT_PREFIX = {
    "MESSAGE_LOGGING_LEVEL": _LEVEL,
    "ENABLE_CONVERSATION_TRACKING": _LEVEL,
    "API_KEY_VALIDATION_MODE": "LLMRING_AUTH",
    "REGISTRY_BASE_URL": "LLMRING_REGISTRY_URL",
    "CACHE_TTL": "LLMRING_REGISTRY_TTL",
    "MESSAGE_RETENTION_DAYS": "`llmring-server projects retain`",
}

# What is stored of conversations, the least first.
_CONTENT = ("none", "metadata", "full")
_FALSE = ("0", "f", "false", "n", "no", "off")


def variable_of(setting: str) -> str:
    return PREFIX + setting.upper()


def former_settings(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the settings that variables of llmring-server 0.1 set: the variable and the value."""
    former = {
        name: (variable, value)
        for variable, name in RENAMED.items()
        if (value := environ.get(variable))
    }
    if environ.get(_VALIDATION_MODE, "").lower() == "strict":
        former["auth"] = (_VALIDATION_MODE, "keys")
    return former


def require_content_asked_for(
    environ: Mapping[str, str], dotenv: Mapping[str, str], content: str
) -> None:
    """Raise InvalidSettings if a variable asks to store less of conversations than `content`.

    llmring-server 0.1 read variables in lower case, too, and a file `.env`. Not to read them must
    not mean to store what they forbid.
    """
    file = {name: value for name, value in dotenv.items() if name not in environ}
    for place, variables in (("", environ), (" in the file .env", file)):
        for name, value in variables.items():
            most = _most_content(name.upper(), value)
            if most is None or _CONTENT.index(most) >= _CONTENT.index(content):
                continue
            if name.upper() == _TRACKING:
                # It also refused to create conversations, which have titles and system prompts.
                raise InvalidSettings(
                    f"{name}{place}: conversations cannot be turned off. Set {_LEVEL}=none, with"
                    " which no messages are stored; titles and system prompts are stored if clients"
                    " send them."
                )
            # What is read in its proper form has had its effect.
            if place or name != name.upper():
                raise InvalidSettings(
                    f"{name}{place} is not read, and asks to store less of conversations than the"
                    f" server would. Set {_LEVEL}={most} in the environment or in a settings file,"
                    " or remove it."
                )


def _most_content(variable: str, value: str) -> str | None:
    """Return how much of conversations a variable lets the server store; None for another one."""
    value = value.strip().lower()
    if variable == _TRACKING:
        return "none" if value in _FALSE else None
    is_level = variable == _LEVEL or RENAMED.get(variable) == "conversation_content"
    return value if is_level and value in _CONTENT else None


def variable_warnings(environ: Mapping[str, str], settings: Collection[str]) -> list[str]:
    """Return a sentence for each variable that has no effect, or that has another name now.

    One of them may be misspelled, or be a setting of llmring-server 0.1.
    """
    variables = {variable_of(name) for name in settings}
    known = {*variables, *CLIENT_VARIABLES, *_OTHER_VARIABLES}
    warnings = []
    for name in sorted(environ):
        if name in _WITHOUT_PREFIX and environ[name]:
            warnings.append(
                f"{name} has no effect. If it is meant for this server, use"
                f" {_WITHOUT_PREFIX[name]}."
            )
        is_ours = name.upper().startswith(PREFIX) and not name.startswith(_TEST_PREFIX)
        # It is an error where it asks for less than is stored, and has its effect where not.
        is_tracking_off = name == _TRACKING and _most_content(name, environ[name]) is not None
        if not is_ours or name in known or is_tracking_off:
            continue
        warnings.append(_warning(name, environ[name], variables))
    return [*warnings, *_file_warnings(environ, known)]


def _warning(name: str, value: str, variables: Collection[str]) -> str:
    if name in RENAMED:
        return f"{name} is the former name of {variable_of(RENAMED[name])}."
    if name == _VALIDATION_MODE and value.lower() == "strict":
        return f"{name} is the former name of LLMRING_AUTH; strict is keys now."
    if name in _REPLACEMENTS:
        return f"{name} has no effect: {_REPLACEMENTS[name]}."
    alike = get_close_matches(name.upper(), sorted({*variables, *RENAMED}), 1, cutoff=0.8)
    hint = f" Did you mean {alike[0]}?" if alike else ""
    return f"{name} is not a setting and has no effect.{hint}"


def _file_warnings(environ: Mapping[str, str], known: Collection[str]) -> list[str]:
    """Return a sentence if the working directory has a file .env with settings.

    llmring-server 0.1 read it. The client does so too, so its variables may be there.
    """
    names = {*dotenv_variables()}
    settings = (names & ({*known, *RENAMED, *_REPLACEMENTS} - {*CLIENT_VARIABLES})) - environ.keys()
    if not settings:
        return []
    return [
        (
            f"The file .env is not read; it has {', '.join(sorted(settings))}. Put these into the"
            " environment (`set -a; . ./.env`), or into a settings file."
        )
    ]


def dotenv_variables() -> dict[str, str]:
    """Return the variables in the file .env of the working directory."""
    try:
        text = Path(".env").read_text(errors="replace")
    except OSError:
        return {}
    variables = {}
    for line in text.splitlines():
        name, _, value = line.strip().removeprefix("export ").partition("=")
        # A comment follows a space.
        variables[name.strip()] = re.sub(r"\s+#.*", "", value).strip().strip("'\"")
    return variables
