"""How receipts are made: of calls that are stored, in one transaction, in memory for a page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from llmring_server.database import Database
from llmring_server.draft import Draft, leaf, sealed
from llmring_server.errors import BadRequest, Invalid, NotConfigured, NotFound
from llmring_server.finding import Finding, Rows
from llmring_server.ids import new_id
from llmring_server.items import NOTHING, Preview, preview
from llmring_server.keyfile import Source
from llmring_server.keyring import Keyring
from llmring_server.receipt import Generated, Receipt, Stored
from llmring_server.signing import BadKey
from llmring_server.tally import Tally, call_of
from llmring_server.tenant import Tenant
from llmring_server.wanted import Wanted
from llmring_verify import merkle
from llmring_verify.receipt import leaf_entry


class Issuing(Finding):
    """Signs what is stored, if there are keys to sign with."""

    noun = "receipts"

    def __init__(self, database: Database, keys: Source, issuer: str) -> None:
        super().__init__(database)
        self.keys, self._issuer = keys, issuer

    @property
    def keyring(self) -> Keyring:
        """Return the keys that sign; NotConfigured if there are none."""
        keys = self.keys()
        if keys is None:
            raise NotConfigured
        return keys

    async def generate(self, tenant: Tenant, wanted: Wanted) -> Generated:
        """Certify the calls that are wanted, all of them or none; BadRequest if there are none."""
        keys = self.keyring
        async with self._database.transaction() as inside:
            await self.on(inside)._alone(tenant)
            made = await self.on(inside)._generate(keys, tenant, wanted)
        if made is None:
            raise BadRequest(NOTHING)
        return made

    async def preview(self, tenant: Tenant, wanted: Wanted) -> Preview:
        """Tell what a receipt of these calls would say."""
        tally = Tally()

        async def add(rows: Rows) -> None:
            tally.add(rows)

        await self._read(tenant, wanted, add)
        return preview(tally)

    async def issue(self, tenant: Tenant, log_id: UUID) -> Receipt:
        """Return the receipt of one stored call: the one that there is, or else a new one."""
        keys = self.keyring
        async with self._database.transaction() as inside:
            await self.on(inside)._alone(tenant)
            if found := await self.on(inside)._of_call(keys, tenant, log_id):
                return found
        raise NotFound

    async def certify(self, tenant: Tenant, log_id: UUID) -> Receipt | None:
        """Do the same, on the transaction that stores the call; None if nothing can be signed.

        The keys cannot be used, or the call has more tokens than JSON can count: it is stored.
        """
        try:
            if (keys := self.keys()) is None:
                return None
            async with self._database.transaction() as inside:
                return await self.on(inside)._of_call(keys, tenant, log_id)
        except (Invalid, BadKey):
            return None

    async def _alone(self, tenant: Tenant) -> None:
        if (await self._one("one_at_a_time", tenant=tenant))["isolation"] != "read committed":
            raise Invalid("Receipts are made in transactions of READ COMMITTED alone.")

    async def _of_call(self, keys: Keyring, tenant: Tenant, log_id: UUID) -> Receipt | None:
        kids = list(keys.trusted)
        if found := await self._all("of_call", tenant=tenant, log_id=log_id, kids=kids):
            return Stored.of(found[0]).told()
        made = await self._generate(keys, tenant, Wanted(log_ids=[log_id]))
        return made and made["receipt"]

    async def _generate(self, keys: Keyring, tenant: Tenant, wanted: Wanted) -> Generated | None:
        id, tally, tree, last = new_id(), Tally(), merkle.MerkleRoot(), None

        async def take(rows: Rows) -> None:
            nonlocal last
            calls = [call_of(row) for row in rows]
            leaves = [merkle.leaf_hash(leaf_entry(each)) for each in calls]
            for each in leaves:
                tree.add(each)
            tally.add(rows)
            last = calls[-1]
            await self._certify(tenant, id, rows, leaves)

        rest = await self._read(tenant, wanted, take)
        await self._close(tenant, rest)
        if last is None:
            return None
        draft = Draft(id, tenant, self._issuer, datetime.now(UTC), wanted, tally)
        stored = await sealed(keys, draft, tree.value(), last)
        await self.keep(tenant, stored)
        return {
            "receipt": stored.told(),
            "certified_count": tally.count,
            "more": rest.more,
            "uncountable": rest.uncountable,
        }

    async def _certify(self, tenant: Tenant, id: UUID, rows: Rows, leaves: Sequence[bytes]) -> None:
        await self._all(
            "certify",
            tenant=tenant,
            id=str(id),
            log_ids=[row["id"] for row in rows],
            times=[row["logged_at"] for row in rows],
            leaves=leaves,
        )

    async def keep(self, tenant: Tenant, stored: Stored) -> bool:
        """Store a receipt as it was signed; False if there is one of that id."""
        row = {**stored._asdict(), **leaf(stored)}
        return bool(await self._all("keep", tenant=tenant, place=new_id(), **row))
