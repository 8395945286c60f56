"""The cases: what is measured, by the name that `scripts/bench --only` takes."""

from collections.abc import Callable
from typing import Any

from scripts.benchmark.cases import (
    answers,
    conversations,
    floods,
    footprint,
    imports,
    logging,
    mcp_tools,
    reading,
    receipts,
    writing,
)
from scripts.benchmark.runner import Settings

CASES: dict[str, Callable[[Settings], dict[str, Any]]] = {
    "log": logging.log,
    "log-1000-projects": logging.log_1000_projects,
    "batch": logging.batch,
    "pricing": logging.pricing,
    "request-limits": logging.request_limits,
    "floods": floods.floods,
    "write-stalls": writing.stalls,
    "stats": reading.stats,
    "logs": reading.logs,
    "conversations": conversations.conversations,
    "executions": mcp_tools.executions,
    "answers": answers.answers,
    "import": imports.llmring,
    "size": footprint.size,
    "memory": footprint.memory,
    "receipts": receipts.receipts,
    "verify": receipts.verify,
}
