"""Normal names of providers: OpenTelemetry's, LiteLLM's, the clouds' and other spellings."""

import pytest
from genai_prices.data import providers as genai_providers
from genai_prices.data_snapshot import find_provider_by_id
from genai_prices.types import Provider

from llmring_server.core.providers import (
    _SPELLINGS,
    _without_separators,
    normal_provider,
    recognized_provider,
)
from llmring_server.pricing.sources import _GENAI_IDS

SPELLINGS = {
    "openai": "openai OpenAI open_ai openai.chat openai.responses text-completion-openai",
    "anthropic": "anthropic Anthropic anthropic_text anthropic.messages",
    "google": "google gemini gcp.gemini gcp.gen_ai GCP.GEN_AI google_genai google-gla"
    " google_ai_studio google.generative-ai",
    "vertex_ai": "vertex_ai vertex-ai vertexai VertexAI vertex_ai_beta gcp.vertex_ai google-vertex"
    " gcp.vertex.ai google_vertexai vertex_ai-anthropic_models google.vertex.chat"
    " vertex.anthropic.messages",
    "bedrock": "aws.bedrock aws_bedrock aws-bedrock amazon-bedrock amazon_bedrock bedrock_converse"
    " bedrock aws Amazon aws.bedrock.converse aws.bedrock.invoke aws.bedrock.runtime"
    " aws.bedrock.agent.runtime",
    "azure": "azure Azure azure_ai azure.ai.openai azure.ai.inference azure_openai azure-openai"
    " azure.chat azure_text az.ai.openai az.ai.inference AZ_AI_OpenAI azure.ai.services",
    "xai": "xai x_ai x-ai x.ai xAI xai.chat grok",
    "mistral": "mistral mistral_ai mistralai",
    "together": "together together_ai togetherai together-ai",
    "fireworks": "fireworks fireworks_ai fireworks-ai",
    "deepseek": "deepseek DeepSeek",
    "perplexity": "perplexity Perplexity",
    "cohere": "cohere cohere_chat",
    "watsonx": "ibm.watsonx.ai ibm_watsonx_ai IBM watsonx",
    "moonshotai": "moonshot moonshot_ai moonshotai",
    "openrouter": "openrouter OpenRouter",
    "groq": "groq",
    "ollama": "ollama ollama_chat",
}


@pytest.mark.parametrize(
    ("spelling", "name"),
    [(spelling, name) for name, spellings in SPELLINGS.items() for spelling in spellings.split()],
)
def test_every_spelling_of_a_provider_has_one_normal_name(spelling: str, name: str) -> None:
    assert normal_provider(spelling) == normal_provider(f" {spelling.upper()}\n") == name


@pytest.mark.parametrize(
    ("unknown", "name"),
    [
        (" Acme ", "acme"),
        ("acme.chat", "acme.chat"),
        ("Acme-AI", "acme-ai"),
        ("", ""),
        ("--", "--"),
    ],
)
def test_an_unknown_provider_is_itself(unknown: str, name: str) -> None:
    assert normal_provider(unknown) == name


def test_a_normal_name_is_its_own_normal_name() -> None:
    assert {normal_provider(name) for name in _SPELLINGS} == set(_SPELLINGS)


def test_no_spelling_has_two_normal_names() -> None:
    spellings = [
        _without_separators(spelling)
        for name, others in _SPELLINGS.items()
        for spelling in {_without_separators(text) for text in (name, *others)}
    ]
    assert len(spellings) == len(set(spellings))


def test_providers_of_the_built_in_prices_stay_apart() -> None:
    ids = [provider.id for provider in genai_providers]
    assert len({normal_provider(id) for id in ids}) == len(ids)


CONTAINED = {
    "google-cloud": "vertex_ai",
    "claude-vertex": "vertex_ai",
    "anthropic-vertex-eu": "vertex_ai",
    "anthropic-custom": "anthropic",
    "my-anthropic": "anthropic",
    "Anthropic (EU)": "anthropic",
    "anthropic/claude": "anthropic",
    "bedrock-eu": "bedrock",
    "Anthropic on Bedrock": "bedrock",
    "amazon-nova": "bedrock",
    "gemini-api": "google",
    "my-google": "google",
    "openai-eu": "openai",
    "openrouter/anthropic": "openrouter",
    "mistral-eu": "mistral",
}


@pytest.mark.parametrize(("name", "provider"), CONTAINED.items())
def test_an_unknown_name_stands_for_the_provider_that_it_contains(name: str, provider: str) -> None:
    assert recognized_provider(name) == provider
    assert normal_provider(name) == name.casefold(), "sums keep the name"


@pytest.mark.parametrize("name", ["acme", "anthropos", "", "my own", *_SPELLINGS])
def test_other_names_stand_for_themselves(name: str) -> None:
    assert recognized_provider(name) == name


@pytest.mark.parametrize("provider", genai_providers, ids=lambda provider: provider.id)
def test_names_that_genai_prices_recognizes_are_recognized(provider: Provider) -> None:
    """It is asked for a provider by its id only, so each of its looser names must be known here."""
    name = f"eu-{provider.id}-1"
    found = find_provider_by_id(genai_providers, name)
    if found and not found.id.startswith("huggingface_"):
        recognized = recognized_provider(name)
        assert _GENAI_IDS.get(recognized, recognized) in {found.id, provider.id}
