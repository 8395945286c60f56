"""Programs for the development of llmring-server."""
