"""Database: connections, transactions, hand-written SQL, migrations, the embedded PostgreSQL."""

from llmring_server.db.database import Database, open_database
from llmring_server.db.migrations import migrate, migration_status, pending_migrations
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Retention, Table

__all__ = [
    "Database",
    "Repository",
    "Retention",
    "Table",
    "migrate",
    "migration_status",
    "open_database",
    "pending_migrations",
]
