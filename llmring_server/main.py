"""The app of llmring-server 0.1, at its former path: `llmring_server.main:app`."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pgdbm import AsyncDatabaseManager

import llmring_server
from llmring_server.settings import Settings, environment_warnings

if TYPE_CHECKING:
    from llmring_server.access.authentication import Authenticate
    from llmring_server.asgi import App
    from llmring_server.receipts.signing_keys import Keyring

    app: App

__all__ = ["app", "create_app"]

logger = logging.getLogger(__name__)


def create_app(  # noqa: PLR0913, PLR0917, the order is that of llmring-server 0.1
    db_manager: AsyncDatabaseManager | None = None,
    run_migrations: bool = True,  # noqa: FBT001, FBT002, as above
    schema: str | None = None,
    settings: Settings | None = None,
    standalone: bool = True,  # noqa: FBT001, FBT002, as above
    include_meta_routes: bool = True,  # noqa: FBT001, FBT002, as above
    *,
    config: Mapping[str, Any] | None = None,
    authenticate: "Authenticate | None" = None,
    keyring: "Keyring | None" = None,
    read_db: AsyncDatabaseManager | None = None,
) -> "App":
    """Return an app as `llmring_server.create_app` does.

    Unlike that, it reads settings that are not given from the environment also for a lent database,
    as llmring-server 0.1 did: otherwise an app could store what its environment forbids to store.
    """
    if settings is None and db_manager is not None:
        values = ({"auth": "parent"} if authenticate else {}) | dict(config or {})
        settings, config = Settings.from_env(**values), None
        for warning in environment_warnings():
            logger.warning("%s", warning)
    return llmring_server.create_app(
        db_manager,
        run_migrations,
        schema,
        settings,
        standalone,
        include_meta_routes,
        config=config,
        authenticate=authenticate,
        keyring=keyring,
        read_db=read_db,
    )


def __getattr__(name: str) -> object:
    """Return `app` of the package, which is created when it is first used."""
    if name == "app":
        return llmring_server.app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
