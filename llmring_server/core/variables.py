"""Variables of the environment that begin with LLMRING_: settings, former settings and others."""

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

_FALSE = ("0", "f", "false", "n", "no", "off")


def variable_of(setting: str) -> str:
    return PREFIX + setting.upper()


def former_settings(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the settings that variables of llmring-server 0.1 set: the variable and the value.

    Raise InvalidSettings for one that would make the server store or allow more than it asks for.
    """
    former = {
        name: (variable, value)
        for variable, name in RENAMED.items()
        if (value := environ.get(variable))
    }
    if environ.get(_VALIDATION_MODE, "").lower() == "strict":
        former["auth"] = (_VALIDATION_MODE, "keys")
    # It also refused to create conversations, which have titles and system prompts.
    if _is_tracking_refused(environ):
        raise InvalidSettings(
            f"{_TRACKING}: conversations cannot be turned off. Set {_LEVEL}=none, with which no"
            " messages are stored; titles and system prompts are stored if clients send them."
        )
    return former


def _is_tracking_refused(environ: Mapping[str, str]) -> bool:
    return environ.get(_TRACKING, "").lower() in _FALSE and environ.get(_LEVEL) != "none"


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
        # What is refused is an error, and no warning.
        is_refused = name == _TRACKING and _is_tracking_refused(environ)
        if not is_ours or name in known or is_refused:
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
    try:
        text = Path(".env").read_text(errors="replace")
    except OSError:
        return []
    names = {
        line.strip().removeprefix("export ").partition("=")[0].strip() for line in text.splitlines()
    }
    settings = (names & ({*known, *RENAMED, *_REPLACEMENTS} - {*CLIENT_VARIABLES})) - environ.keys()
    if not settings:
        return []
    return [
        (
            f"The file .env is not read; it has {', '.join(sorted(settings))}. Put these into the"
            " environment (`set -a; . ./.env`), or into a settings file."
        )
    ]
