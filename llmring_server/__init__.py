"""llmring-server: usage, receipts and conversations for LLM calls, served or embedded."""

from typing import TYPE_CHECKING

from pgdbm import AsyncDatabaseManager

from llmring_server.core.identity import LIBRARY, Actor, Caller
from llmring_server.db.migrations import migrate
from llmring_server.ring import Ring
from llmring_server.settings import Settings
from llmring_server.usage.models import NewCall

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from llmring_server.access.authentication import Authenticate
    from llmring_server.receipts.signing_keys import Keyring
    from llmring_server.server.in_process import Server

    app: Starlette

__all__ = [
    "LIBRARY",
    "Actor",
    "Caller",
    "NewCall",
    "Ring",
    "Server",
    "Settings",
    "build",
    "create_app",
    "migrate",
]


def build(
    db: AsyncDatabaseManager,
    settings: Settings | None = None,
    authenticate: "Authenticate | None" = None,
    keyring: "Keyring | None" = None,
) -> "Starlette":
    """Return the app to mount on a migrated `db`: `parent.mount("/llmring", build(db))`.

    With `authenticate` the parent says who calls: given the ASGI scope, it returns (or awaits) the
    UUID of a project, a `Caller`, or None for nobody. A `keyring` signs receipts.
    """
    return create_app(
        db, run_migrations=False, settings=settings, authenticate=authenticate, keyring=keyring
    )


def create_app(  # noqa: PLR0913, they are all of it
    db_manager: AsyncDatabaseManager | None = None,
    *,
    run_migrations: bool = True,
    schema: str | None = None,
    settings: Settings | None = None,
    include_meta_routes: bool = True,
    authenticate: "Authenticate | None" = None,
    keyring: "Keyring | None" = None,
) -> "Starlette":
    """Return an app on the caller's `db_manager`, or else on a database of its own.

    `schema` overrides the manager's. With `run_migrations` the schema is brought up to date when
    the app's lifespan starts, or before its first request is answered. Without
    `include_meta_routes` the app leaves `/` and `/health` to its parent. `authenticate` and
    `keyring` are as in `build`.
    """
    from llmring_server.asgi import ASGIFactory  # noqa: PLC0415, a library needs no web

    if db_manager is None:
        chosen = (settings or Settings.from_env()).model_dump()
        chosen |= {"migrate_on_start": run_migrations}
        chosen |= {"database_schema": schema} if schema else {}
        owner = ASGIFactory(Settings(**chosen), include_meta_routes, authenticate, keyring)
        return owner.standalone()
    if schema and schema != db_manager.schema:
        db_manager = AsyncDatabaseManager(pool=db_manager._pool, schema=schema)
    settings = settings or Settings(auth="parent" if authenticate else "keys")
    factory = ASGIFactory(settings, include_meta_routes, authenticate, keyring)
    return factory.mounted(db_manager, run_migrations=run_migrations)


def __getattr__(name: str) -> object:
    """Make `app` and `Server` when asked for, so that importing us reads no environment."""
    if name == "app":
        globals()["app"] = create_app()
    elif name == "Server":
        from llmring_server.server.in_process import Server  # noqa: PLC0415, a library needs no uvicorn

        globals()["Server"] = Server
    else:
        raise AttributeError(name)
    return globals()[name]
