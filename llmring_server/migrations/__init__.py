"""The folder that hosts of llmring-server 0.1 gave to pgdbm's migration manager. It has no SQL.

The tables are in two schemas, which `llmring_server.migrate` and `create_app` migrate. A host that
still applies this folder applies nothing, and its app migrates before its first request.
"""
