"""Conversations: messages exchanged with models, their exact totals, and search.

`Conversations` is `ring.conversations`. A program that embeds the server passes it a
`NewConversation`, `NewMessage`s, or an `Exchange`: a request to a model with the model's reply. How
much content is stored depends on a `ContentLevel`.
"""

from llmring_server.conversations.exchange import Exchange
from llmring_server.conversations.models import (
    AppendResult,
    ContentLevel,
    Conversation,
    ConversationPage,
    Message,
    MessagePage,
    NewConversation,
    NewMessage,
)
from llmring_server.conversations.service import Conversations

__all__ = [
    "AppendResult",
    "ContentLevel",
    "Conversation",
    "ConversationPage",
    "Conversations",
    "Exchange",
    "Message",
    "MessagePage",
    "NewConversation",
    "NewMessage",
]
