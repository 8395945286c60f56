"""Names of models: libraries and clouds write a provider, a path or a region before them."""

import re
from collections.abc import Iterator

from llmring_server.core.providers import is_known_provider, normal_provider

# Google's and Fireworks' resource names, Bedrock's ARNs.
_PATH = re.compile(r"^(?:.*/)?models/|^arn:.*/", re.IGNORECASE)
# LiteLLM's ways to call Bedrock, and the regions that it calls.
_BEDROCK_ROUTE = re.compile(
    r"^(?:converse|converse_like|invoke|mantle|[a-z]{2}(?:-[a-z]+)+-\d)/", re.IGNORECASE
)
# Bedrock's inference profiles.
_BEDROCK_REGION = re.compile(
    r"^(?:us-gov|us|eu|apac|ap|au|ca|in|jp|sa|global)\.(?=[a-z0-9-]+\.)", re.IGNORECASE
)
_FINE_TUNED_MODEL = re.compile(r"^(ft:[^:]+):.*")
_DATE_SUFFIX = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")

# Those that call others: OpenAI's SDK reports `openai`, whoever answers it.
_GATEWAYS = {"litellm", "openai"}
# How LiteLLM names whom it calls. Prefixes that are the makers of models, such as `meta-llama`, do
# not say who serves them.
_ROUTES = {
    "anthropic",
    "azure",
    "azure_ai",
    "bedrock",
    "cohere",
    "deepseek",
    "fireworks_ai",
    "gemini",
    "groq",
    "mistral",
    "openai",
    "openrouter",
    "perplexity",
    "together_ai",
    "vertex_ai",
    "xai",
}


def names_of(provider: str, model: str) -> list[tuple[str, str]]:
    """Return under which providers and names to look for a model, in this order.

    The name as it is reported comes first: a provider's own names may contain other providers'.
    `provider` is a normal name.
    """
    model = model.strip()
    found = [(provider, model)]
    for seller, name in _shorter_names(provider, model):
        found.append((seller, name))
    seller, name = found[-1]
    found.append((seller, _FINE_TUNED_MODEL.sub(r"\1", name)))
    if seller == "bedrock":
        found.append((seller, _BEDROCK_REGION.sub("", name)))
    return list(dict.fromkeys(found))


def _shorter_names(seller: str, name: str) -> Iterator[tuple[str, str]]:
    """Remove one prefix after the other."""
    while True:
        shorter = _PATH.sub("", name, count=1)
        if shorter == name and seller == "bedrock":
            shorter = _BEDROCK_ROUTE.sub("", name, count=1)
        if shorter == name:
            head, separator, rest = _split(name)
            maker = normal_provider(head)
            if not rest:
                return
            if seller in _GATEWAYS and maker != seller and head in _ROUTES:
                # `azure/gpt-4o` of a gateway is Azure's.
                seller = maker
            elif maker != seller and (separator == ":" or not is_known_provider(maker)):
                return
            shorter = rest
        name = shorter
        yield seller, name


def _split(name: str) -> tuple[str, str, str]:
    """Split a name at the first `/` or `:`."""
    match = re.search(r"[/:]", name)
    if not match:
        return name, "", ""
    return name[: match.start()], match[0], name[match.end() :]


def undated(name: str) -> str | None:
    """Return the name of a dated model without its date; None if it has none."""
    if name.startswith("ft:"):
        return None
    shorter = _DATE_SUFFIX.sub("", name)
    return shorter if shorter != name else None


def date_of(name: str) -> str:
    """Return the date in a model's name, in digits, or nothing."""
    match = _DATE_SUFFIX.search(name)
    return match[1].replace("-", "") if match else ""
