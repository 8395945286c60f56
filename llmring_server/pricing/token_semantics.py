"""What a provider's token counts include: cached tokens in the input, reasoning in the output.

It depends on the API and on the family of the model, not on how the provider's name is spelled.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from llmring_server.core.providers import recognized_provider

CACHE_SIZE = 4096

_CLAUDE = re.compile(r"claude|anthropic", re.IGNORECASE)
_GEMINI = re.compile(r"gemini", re.IGNORECASE)
_GROK = re.compile(r"grok", re.IGNORECASE)
_OPENAI_ON_BEDROCK = re.compile(r"openai\.|\bgpt-", re.IGNORECASE)

# Claude is called through Anthropic's own API at these providers. Others, such as OpenRouter and
# LiteLLM, translate its usage to the one of OpenAI.
_SELL_CLAUDE = {"anthropic", "azure", "bedrock", "google", "vertex_ai"}


class TokenReading(NamedTuple):
    """Whether input tokens include cached ones, read and written, and output tokens reasoning."""

    cache_included: bool
    reasoning_included: bool


class _Assumption(NamedTuple):
    """Whether a total includes a part, and why this is assumed."""

    included: bool
    reason: str


def _inside(reason: str) -> _Assumption:
    return _Assumption(included=True, reason=reason)


def _beside(reason: str) -> _Assumption:
    return _Assumption(included=False, reason=reason)


# Clients choose the names, so the number of cached ones is limited.
@lru_cache(CACHE_SIZE)
def _cache_of_family(provider: str, model: str) -> _Assumption:
    seller = recognized_provider(provider)
    # https://platform.claude.com/docs/en/build-with-claude/prompt-caching (Tracking cache
    # performance): input_tokens are those after the last cache breakpoint.
    if seller == "anthropic" or (seller in _SELL_CLAUDE and _CLAUDE.search(model)):
        return _beside("Anthropic's API counts cached tokens beside the input")
    if seller == "bedrock":
        if _OPENAI_ON_BEDROCK.search(model):
            return _inside("OpenAI's models on Bedrock count cached tokens in the input")
        # https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html
        return _beside("Bedrock's Converse API counts cached tokens beside the input")
    return _inside("most APIs count cached tokens in the input, as OpenAI's does")


@lru_cache(CACHE_SIZE)
def _reasoning_of_family(provider: str, model: str) -> _Assumption:
    seller = recognized_provider(provider)
    # https://ai.google.dev/api/generate-content#UsageMetadata: thoughtsTokenCount is not part of
    # candidatesTokenCount.
    if (seller == "google" and not _CLAUDE.search(model)) or (
        seller == "vertex_ai" and _GEMINI.search(model)
    ):
        return _beside("Gemini's API counts reasoning beside the output")
    # https://docs.x.ai/docs/key-information/consumption-and-rate-limits: reasoning is counted
    # separately from completion_tokens. Azure and Vertex AI pass on what Grok reports.
    if seller == "xai" or (seller in {"azure", "vertex_ai"} and _GROK.search(model)):
        return _beside("xAI's API counts reasoning beside the output")
    return _inside("most APIs count reasoning in the output, as OpenAI's does")


def counts_reasoning_beside(provider: str, model: str) -> bool:
    """Tell whether the API of a model counts reasoning beside the output."""
    return not _reasoning_of_family(provider, model).included


class ReportedTokens(NamedTuple):
    """The tokens that a call reports, before it is known what they include."""

    provider: str
    model: str
    input: int
    output: int
    cached: int
    details: Mapping[str, Any]

    @property
    def cache(self) -> int:
        """Return how many tokens were read from a cache or written to it."""
        created: int = self.details.get("cache_creation_input_tokens", 0)
        return self.cached + created

    @property
    def reasoning(self) -> int:
        return self.details.get("reasoning_output_tokens", 0)  # type: ignore[no-any-return]

    def reading(self) -> TokenReading:
        """Decide how to read them.

        What the numbers leave possible counts most, then what the call says, then how the API of
        the model counts.
        """
        return TokenReading(self._assumed_cache().included, self._assumed_reasoning().included)

    def reasons(self) -> list[str]:
        """Explain `reading`: one sentence for each kind of token that it matters for."""
        reasons = []
        if self.cache:
            included, reason = self._assumed_cache()
            verb = "include" if included else "do not include"
            reasons.append(f"Input tokens {verb} the {self.cache} cached ones: {reason}.")
        if self.reasoning:
            included, reason = self._assumed_reasoning()
            verb = "include" if included else "do not include"
            reasons.append(f"Output tokens {verb} the {self.reasoning} of reasoning: {reason}.")
        return reasons

    def _assumed_cache(self) -> _Assumption:
        if self.cache > self.input:
            return _beside("they are more than the input tokens")
        stated = self.details.get("cache_tokens_included")
        if stated is not None:
            return _Assumption(stated, "the call says so")
        return _cache_of_family(self.provider, self.model)

    def _assumed_reasoning(self) -> _Assumption:
        if self.reasoning > self.output:
            return _beside("they are more than the output tokens")
        stated = self.details.get("reasoning_tokens_included")
        if stated is not None:
            return _Assumption(stated, "the call says so")
        return _reasoning_of_family(self.provider, self.model)
