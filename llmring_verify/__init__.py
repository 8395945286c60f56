"""Checks what an llmring server signed: offline, with keys that its reader pinned."""
