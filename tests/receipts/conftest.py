"""Servers that sign receipts with a known key."""

import pytest
from pgdbm import AsyncDatabaseManager

from llmring_server import Ring, Settings
from tests.support.signing import SEED, keyring


@pytest.fixture
def settings(settings: Settings) -> Settings:
    signing = {"receipts_private_key_b64": SEED, "receipt_issuer": "us"}
    return Settings.model_validate(settings.model_dump() | signing)


@pytest.fixture
def ring(db: AsyncDatabaseManager) -> Ring:
    return Ring(db, Settings(conversation_content="full"), keyring())
