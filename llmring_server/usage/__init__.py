"""Usage: the log of LLM calls, their idempotency keys, exports and statistics.

`Usage` is the service on `Ring`. A `NewCall` is what a client reports, a `Call` is what is stored.
"""

from llmring_server.usage.group_commit import GroupCommitLimits
from llmring_server.usage.idempotency import IdempotencyKey, IdempotencyKeys, fingerprint
from llmring_server.usage.models import Call, CallFilter, CallPage, ExportedCall, LogResult, NewCall
from llmring_server.usage.rollups import Rollups
from llmring_server.usage.service import Usage
from llmring_server.usage.stats import StatsQuery, UsageStats

__all__ = [
    "Call",
    "CallFilter",
    "CallPage",
    "ExportedCall",
    "GroupCommitLimits",
    "IdempotencyKey",
    "IdempotencyKeys",
    "LogResult",
    "NewCall",
    "Rollups",
    "StatsQuery",
    "Usage",
    "UsageStats",
    "fingerprint",
]
