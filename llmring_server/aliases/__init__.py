"""Aliases: names for models, by profile such as dev or prod.

An alias is bound to a `provider:model`, to another alias or to the bare name of a model.

`Aliases` is `ring.aliases`; `BindAlias` is what it binds.
"""

from llmring_server.aliases.models import AliasBinding, AliasPage, BindAlias
from llmring_server.aliases.service import Aliases

__all__ = ["AliasBinding", "AliasPage", "Aliases", "BindAlias"]
