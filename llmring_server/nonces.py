"""Numbers used once: what a gateway has signed is believed one time, in one process of many."""

from llmring_server.repository import Repository


class Nonces(Repository):
    """The nonces of the last minutes."""

    noun = "nonces"

    async def claim(self, nonce: bytes) -> bool:
        """Return True the first time."""
        return bool(await self._all("claim", nonce=nonce))
