"""Aliases service: binds aliases to models and resolves them."""

from collections.abc import Sequence

from llmring_server.aliases.models import DEFAULT_PROFILE, AliasBinding, AliasPage, BindAlias
from llmring_server.core.identity import ProjectId
from llmring_server.core.pagination import MAX_PAGE_BYTES
from llmring_server.core.strict_json import dump_json
from llmring_server.db.database import Database
from llmring_server.db.quotas import Quota
from llmring_server.db.repository import Repository
from llmring_server.db.tables import Table
from llmring_server.errors import InvalidRequest
from llmring_server.settings import Settings

# How many other aliases a new binding, or one that leads to it, may lead through.
MAX_ALIASES_IN_A_ROW = 16
# Requests that bind at once may make a longer chain, or a circle.
MAX_ALIASES_TO_RESOLVE = 1000


class Aliases(Repository):
    """The alias bindings of every project."""

    row_kind = "Alias"
    sql = "aliases/aliases"
    replica_reads = frozenset({"list"})
    tables = (Table("alias_bindings", "aliases", "erase_aliases", ("UPDATE", "DELETE")),)

    def __init__(self, database: Database, settings: Settings) -> None:
        super().__init__(database)
        self._quota = Quota(
            database,
            settings.max_aliases,
            setting="LLMRING_MAX_ALIASES",
            kind="aliases",
            remedy="delete some",
        )

    def configure(self, settings: Settings) -> None:
        self._quota.limit = settings.max_aliases

    async def bind(self, project_id: ProjectId, binding: BindAlias) -> AliasBinding:
        """Bind an alias to a model; an existing binding is replaced."""
        [bound] = await self.bind_many(project_id, [binding])
        return bound

    async def bind_many(
        self, project_id: ProjectId, bindings: Sequence[BindAlias]
    ) -> list[AliasBinding]:
        """Bind aliases, all or none; the last of those with the same alias and profile wins.

        QuotaExceeded if there would be too many. InvalidRequest if one that changes, or another
        alias through it, would lead back to itself or through too many aliases.
        """
        distinct = {(binding.profile, binding.alias): binding.model_dump() for binding in bindings}
        params = {
            "project_id": project_id,
            "bindings": dump_json(list(distinct.values()), "metadata").decode(),
            "quota": self._quota.limit,
        }
        slot = self._quota.slot(project_id)
        async with slot, self._database.transaction() as transaction:
            inside = self.with_database(transaction)
            await inside._quota.lock(project_id)
            rows = await inside._fetch_all("bind", **params)
            if len(rows) < len(distinct):
                raise self._quota.exceeded()
            changed = [
                {"profile": row["profile"], "alias": row["alias"]}
                for row in rows
                if row["is_changed"] and ":" not in row["model"]
            ]
            if changed and await inside._fetch_all(
                "endless",
                project_id=project_id,
                bindings=dump_json(changed, "bindings").decode(),
                max_aliases=MAX_ALIASES_IN_A_ROW,
            ):
                raise InvalidRequest(
                    "model: the alias leads back to itself, or makes a chain of more than"
                    f" {MAX_ALIASES_IN_A_ROW + 1} aliases; bind it to a provider:model"
                )
        bound = [dict(row) for row in rows]
        for fields in bound:
            del fields["is_changed"]
        return [AliasBinding.from_row(fields) for fields in bound]

    async def get(
        self, project_id: ProjectId, alias: str, profile: str = DEFAULT_PROFILE
    ) -> AliasBinding:
        row = await self._fetch_one("get", project_id=project_id, alias=alias, profile=profile)
        return AliasBinding.from_row(row)

    async def resolve(
        self, project_id: ProjectId, alias: str, profile: str = DEFAULT_PROFILE
    ) -> str | None:
        """Return the model that an alias is bound to in this profile, or None.

        If it is bound to other aliases, these are resolved, too.
        """
        row = await self._fetch_one(
            "resolve",
            project_id=project_id,
            alias=alias,
            profile=profile,
            max_aliases=MAX_ALIASES_TO_RESOLVE,
        )
        model: str | None = row["model"]
        # Binding refuses this, unless requests make the parts of a circle or a chain at once.
        if model is None and row["is_bound"]:
            raise InvalidRequest(
                "alias: it leads back to itself, or through more than"
                f" {MAX_ALIASES_TO_RESOLVE:,} other aliases; bind it to a provider:model"
            )
        return model

    async def delete(
        self, project_id: ProjectId, alias: str, profile: str = DEFAULT_PROFILE
    ) -> bool:
        """Delete a binding; return whether it existed."""
        rows = await self._fetch_all("delete", project_id=project_id, alias=alias, profile=profile)
        return bool(rows)

    async def list(
        self, project_id: ProjectId, page: AliasPage | None = None
    ) -> list[AliasBinding]:
        """Return a page of bindings, ordered by alias and profile.

        It is shorter than its limit if the metadata is large. Only an empty page is the last one.
        """
        page = page or AliasPage()
        last_alias, last_profile = page.last_binding(project_id)
        rows = await self._fetch_all(
            "list",
            project_id=project_id,
            profile=page.profile,
            last_alias=last_alias,
            last_profile=last_profile,
            limit=page.limit,
            offset=page.offset,
            max_bytes=MAX_PAGE_BYTES,
        )
        return [AliasBinding.from_row(row, self._read_json) for row in rows]
