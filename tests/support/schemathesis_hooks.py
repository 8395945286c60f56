"""Hooks for schemathesis: rules that no schema can express. tests/schemathesis.toml loads them."""

import json
import os
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext, Response
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import (
    AllowHeaderMismatch,
    RejectedPositiveData,
    UnsupportedMethodResponse,
)

from llmring_server.access.key_format import key_id

# The only reasons for which a request that matches its schema may be rejected.
RULES = re.compile(
    "start_date lies after end_date|time range must be at most|must be a year between"
    "|must be an IANA time zone|must lie between 400 days ago and 10 minutes ahead"
    "|cursor: not a cursor|offset: give a cursor or an offset|capabilities: .* unknown"
    "|tokens: |should be a valid integer|must be nested at most"
    "|must have (at most|keys)|must not have numbers"
    "|metadata: must be at most|expires_at: must be in the future"
    "|Must specify one of|No logs found|Invalid receipt signature|receipt: must be|These calls have"
    "|url: |uri: must be|definition: must be|content: must be|other members: must be"
    "|the name occurs twice|differ: send one|give one, not both|leads back to itself"
    "|arguments: |content: more than|variables: missing"
    "|unknown fields: |usage: must be a usage object|usage.* contradicts|tokens contradicts"
    "|(input|output)_tokens: Field required"
    r"|template: (line \d+: |nested too deeply|more than|a number has)"
    "|This Idempotency-Key was used for another request|idempotency_key: give a key for the batch"
)

# An alias or an id can have this name, too, so the methods of those routes are allowed.
NAMES = {
    "/api/v1/templates/stats",
    "/api/v1/aliases/bind",
    "/api/v1/aliases/bulk_upsert",
    "/api/v1/aliases/resolve",
    *(
        f"/api/v1/receipts/{name}"
        for name in (
            "public-key.pem",
            "public-keys.json",
            "verify",
            "issue",
            "generate",
            "preview",
            "uncertified",
        )
    ),
}

NOW = datetime.now(UTC).replace(tzinfo=None)

# Times at which calls exist; otherwise, most requests would be rejected.
near = st.datetimes(NOW - timedelta(days=300), NOW).map(lambda at: f"{at.isoformat()}Z")
schemathesis.openapi.format("date-time", near)


@schemathesis.serializer("application/x-ndjson")
def lines(_: Any, value: Any) -> bytes:
    return json.dumps(value).encode()


@schemathesis.hook
def filter_case(_: HookContext, case: Case[Any]) -> bool:
    """Do not delete the key, conversation and server that the other requests use."""
    id = (case.path_parameters or {}).get("id")
    if id in {os.environ[f"LLMRING_TEST_{each}"] for each in ("CONVERSATION", "SERVERS")}:
        return case.method != "DELETE"
    return case.method == "GET" or id != key_id(os.environ["LLMRING_TEST_KEY"])


@schemathesis.hook
def filter_failure(_: HookContext, failure: Failure, case: Case[Any], response: Response) -> bool:
    """Report a failure unless a documented rule explains it."""
    if isinstance(failure, RejectedPositiveData):
        return not (response.status_code in {400, 422} and RULES.search(response.json()["detail"]))
    if isinstance(failure, AllowHeaderMismatch | UnsupportedMethodResponse):
        return case.path not in NAMES
    # With `partial=true`, invalid entries are reported beside the valid ones.
    in_part = (case.query or {}).get("partial") in {True, "true"}
    return not (isinstance(failure, AcceptedNegativeData) and in_part)
