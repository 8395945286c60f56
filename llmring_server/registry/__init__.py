"""Registry: which models there are, with their limits, capabilities and prices.

The files of the model registry are fetched in the background, checked, and served as numbered
editions; providers of which there is no file are completed from the built-in price book.
"""

from llmring_server.registry.diff import RegistryDiff, diff_registries
from llmring_server.registry.models import ProviderFile, RegistryEdition, RegistrySnapshot
from llmring_server.registry.service import FetchOutcome, ProviderStatus, QuarantinedFile, Registry

__all__ = [
    "FetchOutcome",
    "ProviderFile",
    "ProviderStatus",
    "QuarantinedFile",
    "Registry",
    "RegistryDiff",
    "RegistryEdition",
    "RegistrySnapshot",
    "diff_registries",
]
