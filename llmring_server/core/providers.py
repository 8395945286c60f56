"""Provider names: what clients, libraries and clouds call the one who sends the bill.

`normal_provider` gives each of them one name. Two names stay apart if they are two bills: the same
model costs something else at Vertex AI than at the Gemini API.
"""

import re
from functools import lru_cache

CACHE_SIZE = 4096

# By normal name, other spellings. Case and the separators `-`, `_`, `.`, `/` and space are ignored:
# `x_ai` stands for `x-ai`, `x.ai` and `xAI`, too. They are the names of OpenTelemetry
# (https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/), LiteLLM
# (https://docs.litellm.ai/docs/providers), LangChain, Pydantic AI, the Vercel AI SDK and
# genai-prices.
_SPELLINGS: dict[str, tuple[str, ...]] = {
    "alibaba": ("alibaba_cloud", "dashscope", "qwen", "tongyi"),
    "anthropic": ("anthropic_ai", "anthropic_text", "claude"),
    "arcee": ("arcee_ai",),
    "azure": (
        # Of the SDKs for Azure, before OpenTelemetry had other names.
        "az_ai_inference",
        "az_ai_openai",
        "azure_ai",
        "azure_ai_foundry",
        "azure_ai_inference",
        "azure_ai_openai",
        "azure_ai_services",
        "azure_ai_studio",
        "azure_anthropic",
        "azure_foundry",
        "azure_openai",
        "azure_text",
        "microsoft_azure",
        "microsoft_foundry",
    ),
    "baseten": (),
    "bedrock": (
        "amazon",
        "amazon_bedrock",
        "amazon_bedrock_converse",
        "anthropic_bedrock",
        "aws",
        "aws_bedrock",
        "aws_bedrock_agent_runtime",
        "aws_bedrock_converse",
        "aws_bedrock_invoke",
        "aws_bedrock_runtime",
        "bedrock_anthropic",
        "bedrock_converse",
        "bedrock_invoke",
        "bedrock_mantle",
        "bedrock_runtime",
    ),
    "cerebras": ("cerebras_ai",),
    "cloudflare": ("cloudflare_workers_ai", "workers_ai"),
    "cohere": ("cohere_ai", "cohere_chat"),
    "cursor": (),
    "databricks": (),
    "deepinfra": ("deep_infra",),
    "deepseek": ("deepseek_ai",),
    "elevenlabs": ("eleven_labs",),
    "fireworks": ("fireworks_ai",),
    "github_copilot": ("copilot",),
    "google": (
        "gcp_gemini",
        "gcp_gen_ai",
        "gemini",
        "google_ai",
        "google_ai_studio",
        "google_gemini",
        "google_genai",
        "google_generative_ai",
        "google_gla",
    ),
    "groq": ("groq_cloud",),
    "huggingface": ("hf", "huggingface_hub"),
    "litellm": ("litellm_proxy",),
    "meta": ("meta_ai", "meta_llama"),
    "minimax": ("minimax_ai",),
    "mistral": ("mistral_ai",),
    "moonshotai": ("kimi", "moonshot"),
    "novita": ("novita_ai",),
    "nvidia": ("nvidia_nim",),
    "ollama": ("ollama_chat",),
    "openai": ("text_completion_openai",),
    "openrouter": ("openrouter_ai",),
    "ovhcloud": ("ovh", "ovhcloud_ai_endpoints"),
    "perplexity": ("perplexity_ai", "pplx"),
    "replicate": (),
    "sambanova": (),
    "together": ("together_ai",),
    "vertex_ai": (
        "anthropic_vertex",
        "gcp_vertex",
        "gcp_vertex_ai",
        "google_anthropic_vertex",
        "google_cloud_vertex_ai",
        "google_vertex",
        "google_vertex_ai",
        "vertex",
        "vertex_ai_beta",
        "vertex_anthropic",
        # LiteLLM names the families of models, too.
        "vertex_ai_ai21_models",
        "vertex_ai_anthropic_models",
        "vertex_ai_chat_models",
        "vertex_ai_code_chat_models",
        "vertex_ai_code_text_models",
        "vertex_ai_deepseek_models",
        "vertex_ai_embedding_models",
        "vertex_ai_image_models",
        "vertex_ai_language_models",
        "vertex_ai_llama_models",
        "vertex_ai_minimax_models",
        "vertex_ai_mistral_models",
        "vertex_ai_moonshot_models",
        "vertex_ai_openai_models",
        "vertex_ai_qwen_models",
        "vertex_ai_text_models",
        "vertex_ai_video_models",
        "vertex_ai_vision_models",
        "vertex_ai_zai_models",
    ),
    "voyageai": ("voyage",),
    "watsonx": ("ibm", "ibm_watsonx", "ibm_watsonx_ai", "watsonx_ai", "watsonx_text"),
    "xai": ("grok", "x_ai"),
    "zai": ("z_ai",),
    "zhipuai": ("bigmodel", "zhipu"),
}

# What names contain that are in no list, such as `bedrock-eu` or `my-anthropic`; the first counts.
# Gateways and clouds come before makers, since Anthropic does not send the bill of
# `anthropic-vertex-eu`.
_PARTS = {
    "openrouter": "openrouter",
    "bedrock": "bedrock",
    "amazon": "bedrock",
    "vertex": "vertex_ai",
    "googlecloud": "vertex_ai",
    "copilot": "github_copilot",
    "databricks": "databricks",
    "cloudflare": "cloudflare",
    "cerebras": "cerebras",
    "baseten": "baseten",
    "modal": "modal",
    "anthropic": "anthropic",
    "google": "google",
    "gemini": "google",
    "openai": "openai",
    "mistral": "mistral",
    "cohere": "cohere",
    "moonshot": "moonshotai",
    "elevenlabs": "elevenlabs",
    "voyage": "voyageai",
    "arcee": "arcee",
    "typesafe": "typesafe",
}

_SEPARATORS = re.compile(r"[-_./\s]+")
# The Vercel AI SDK appends the API: `openai.responses`, `azure.chat`, `anthropic.messages`.
_API = re.compile(
    r"[-_./](chat|completions?|embeddings?|image|messages|responses|speech|transcription)$"
)


def _without_separators(name: str) -> str:
    return _SEPARATORS.sub("", name)


_NORMAL_NAMES = {
    _without_separators(spelling): name
    for name, spellings in _SPELLINGS.items()
    for spelling in (name, *spellings)
}


# Clients choose the names, so the number of cached ones is limited.
@lru_cache(CACHE_SIZE)
def normal_provider(name: str) -> str:
    """Return the normal name of a provider; an unknown one is itself, trimmed and case folded."""
    folded = name.strip().casefold()
    for spelling in (folded, _API.sub("", folded)):
        normal = _NORMAL_NAMES.get(_without_separators(spelling))
        if normal:
            return normal
    return folded


@lru_cache(CACHE_SIZE)
def recognized_provider(name: str) -> str:
    """Return the normal name of the provider that a name stands for, or else contains.

    For prices and for the meaning of token counts, which must not differ. Sums keep the normal name
    of an unknown provider: `my-anthropic` and `anthropic` are two accounts.
    """
    normal = normal_provider(name)
    if is_known_provider(normal):
        return normal
    joined = _without_separators(normal)
    return next((provider for part, provider in _PARTS.items() if part in joined), normal)


def is_known_provider(normal_name: str) -> bool:
    """Tell whether this is the normal name of a provider that has one here."""
    return normal_name in _SPELLINGS
