"""llmemory, installed without most of its dependencies, and offline.

`scripts/setup` installs it alone: with its dependencies, it takes 5.9 GB. What it needs to store
and to search documents is in the environment anyway, except a tokenizer, which it downloads, and
embeddings, for which it asks a provider.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch
from uuid import NAMESPACE_OID, uuid5

import asyncpg
import pytest
import tiktoken
from llmemory import LLMemory, LLMemoryConfig
from llmemory.config import set_config
from llmemory.embedding_providers import EmbeddingProvider
from pgdbm import AsyncDatabaseManager

DIMENSION = 1536
OWNER = "my-app"


class Embeddings(EmbeddingProvider):
    """Embeddings without a model: similar if the texts share letters."""

    async def generate_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [[float(text.count(chr(97 + i % 26))) for i in range(DIMENSION)] for text in texts]


@contextmanager
def offline_tokenizer() -> Iterator[None]:
    """Give llmemory a tokenizer with a token for each byte, in place of one that it downloads."""
    tokens = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding(
        "bytes", pat_str=r"\S+|\s+", mergeable_ranks=tokens, special_tokens={}
    )
    with patch("tiktoken.encoding_for_model", return_value=encoding):
        yield


async def has_extension(server: str, name: str) -> bool:
    """Tell whether a PostgreSQL has an extension; TEST_DATABASE_URL may name one without."""
    connection = await asyncpg.connect(server)
    query = "SELECT true FROM pg_available_extensions WHERE name = $1"
    found = await connection.fetchval(query, name)
    await connection.close()
    return bool(found)


async def require_vector(server: str) -> None:
    if not await has_extension(server, "vector"):
        pytest.skip("llmemory needs a PostgreSQL with the extension vector")


def config_without_models() -> LLMemoryConfig:
    """Return a configuration that llmemory accepts without an API key of OpenAI."""
    config = LLMemoryConfig()
    config.embedding.providers["openai"].api_key = "unused"
    # Its parts read this copy, whatever the constructor gets.
    set_config(config)
    return config


def memory_on(db: AsyncDatabaseManager) -> LLMemory:
    """Return an llmemory on a parent's manager, with embeddings that need no network."""
    config = config_without_models()
    memory = LLMemory.from_db_manager(db, config=config)
    memory._embedding_providers["openai"] = Embeddings(
        "openai", config.embedding.providers["openai"]
    )
    return memory


async def add(memory: LLMemory, text: str) -> int:
    """Add a document; return how many embeddings were stored."""
    added = await memory.add_document(
        owner_id=OWNER,
        id_at_origin=uuid5(NAMESPACE_OID, text).hex,
        document_name="document.txt",
        document_type="text",
        content=text,
    )
    return added.embeddings_created


async def found(memory: LLMemory, query: str, search_type: str = "hybrid") -> list[str]:
    """Search, and return the texts that were found."""
    results = await memory.search(owner_id=OWNER, query_text=query, search_type=search_type)
    return [result.content for result in results]
