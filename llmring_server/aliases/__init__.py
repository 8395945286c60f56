"""Aliases: names for models, bound to a `provider:model` in a profile such as dev or prod.

`Aliases` is `ring.aliases`; `BindAlias` is what it binds.
"""

from llmring_server.aliases.models import AliasBinding, AliasPage, BindAlias
from llmring_server.aliases.service import Aliases

__all__ = ["AliasBinding", "AliasPage", "Aliases", "BindAlias"]
