"""The usage objects of providers: what each says of a call, and what it costs."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, ValidationError

from llmring_server import NewCall, Ring
from llmring_server.core.identity import ProjectId
from llmring_server.usage.idempotency import fingerprint_of_call
from tests.conftest import CALL

NAME = {"provider": "openai", "model": "gpt-4o-mini"}

INSIDE = {"cache_tokens_included": True}
OUTSIDE = {"cache_tokens_included": False}
REASONING_INSIDE = {"reasoning_tokens_included": True}
REASONING_BESIDE = {"reasoning_tokens_included": False}


def call(**fields: Any) -> NewCall:
    return NewCall.model_validate(NAME | fields)


def said(usage: Any) -> dict[str, Any]:
    """Return the fields of a call that a usage object gives."""
    return call(usage=usage).model_dump(
        exclude={*NAME, "usage"}, exclude_none=True, exclude_defaults=True
    )


# Usage objects as the APIs and their SDKs write them, and what they say.
USAGE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "OpenAI Chat Completions": (
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 128,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 20,
                "rejected_prediction_tokens": 5,
            },
        },
        {
            "input_tokens": 2006,
            "output_tokens": 300,
            "cached_input_tokens": 1920,
            "reasoning_output_tokens": 128,
            **INSIDE,
            **REASONING_INSIDE,
        },
    ),
    "OpenAI Chat Completions with audio": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details": {
                "text_tokens": 30,
                "audio_tokens": 60,
                "image_tokens": 10,
                "cached_tokens": None,
            },
            "completion_tokens_details": {"text_tokens": 10, "audio_tokens": 40},
        },
        {
            "input_tokens": 100,
            "output_tokens": 50,
            "audio_input_tokens": 60,
            "image_input_tokens": 10,
            "audio_output_tokens": 40,
        },
    ),
    "OpenAI with nulls": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": None,
            "completion_tokens_details": None,
            "service_tier": None,
        },
        {"input_tokens": 10, "output_tokens": 5},
    ),
    "OpenAI embeddings": (
        {"prompt_tokens": 8, "total_tokens": 8},
        {"input_tokens": 8, "output_tokens": 0},
    ),
    "OpenAI Responses": (
        {
            "input_tokens": 328,
            "input_tokens_details": {"cached_tokens": 100},
            "output_tokens": 52,
            "output_tokens_details": {"reasoning_tokens": 20},
            "total_tokens": 380,
        },
        {
            "input_tokens": 328,
            "output_tokens": 52,
            "cached_input_tokens": 100,
            "reasoning_output_tokens": 20,
            **INSIDE,
            **REASONING_INSIDE,
        },
    ),
    "OpenAI Realtime": (
        {
            "total_tokens": 253,
            "input_tokens": 132,
            "output_tokens": 121,
            "input_token_details": {
                "text_tokens": 119,
                "audio_tokens": 13,
                "image_tokens": 0,
                "cached_tokens": 64,
                "cached_tokens_details": {"text_tokens": 60, "audio_tokens": 4, "image_tokens": 0},
            },
            "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
        },
        {
            "input_tokens": 132,
            "output_tokens": 121,
            "cached_input_tokens": 64,
            "audio_input_tokens": 13,
            "cached_audio_input_tokens": 4,
            "audio_output_tokens": 91,
            **INSIDE,
        },
    ),
    "OpenAI transcription by tokens": (
        {
            "type": "tokens",
            "input_tokens": 14,
            "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
            "output_tokens": 45,
            "total_tokens": 59,
        },
        {"input_tokens": 14, "output_tokens": 45, "audio_input_tokens": 10},
    ),
    "OpenAI transcription by duration": (
        {"type": "duration", "seconds": Decimal("12.5")},
        {"input_tokens": 0, "output_tokens": 0, "audio_seconds": Decimal("12.5")},
    ),
    "Mistral with audio": (
        {
            "prompt_tokens": 4,
            "completion_tokens": 635,
            "total_tokens": 3264,
            "prompt_audio_seconds": 203,
        },
        {"input_tokens": 4, "output_tokens": 635, "audio_seconds": 203},
    ),
    "LangChain": (
        {
            "input_tokens": 350,
            "output_tokens": 240,
            "total_tokens": 590,
            "input_token_details": {"audio": 10, "cache_creation": 200, "cache_read": 100},
            "output_token_details": {"audio": 10, "reasoning": 200},
        },
        {
            "input_tokens": 350,
            "output_tokens": 240,
            "audio_input_tokens": 10,
            "cache_creation_input_tokens": 200,
            "cached_input_tokens": 100,
            "audio_output_tokens": 10,
            "reasoning_output_tokens": 200,
            **INSIDE,
            **REASONING_INSIDE,
        },
    ),
    "xAI, where the total shows that reasoning comes on top": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        {
            "input_tokens": 32,
            "output_tokens": 9,
            "reasoning_output_tokens": 94,
            **REASONING_BESIDE,
        },
    ),
    "without a total, the provider decides about reasoning": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "completion_tokens_details": {"reasoning_tokens": 4},
        },
        {"input_tokens": 32, "output_tokens": 9, "reasoning_output_tokens": 4},
    ),
    "DeepSeek": (
        {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "total_tokens": 25,
            "prompt_tokens_details": {"cached_tokens": 12},
            "prompt_cache_hit_tokens": 12,
            "prompt_cache_miss_tokens": 8,
        },
        {"input_tokens": 20, "output_tokens": 5, "cached_input_tokens": 12, **INSIDE},
    ),
    "Moonshot": (
        {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25, "cached_tokens": 12},
        {"input_tokens": 20, "output_tokens": 5, "cached_input_tokens": 12, **INSIDE},
    ),
    "OpenRouter": (
        {
            "prompt_tokens": 194,
            "completion_tokens": 2,
            "total_tokens": 196,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "cache_write_tokens": 100,
                "audio_tokens": 0,
                "video_tokens": 0,
            },
            "completion_tokens_details": {"reasoning_tokens": 0, "image_tokens": 0},
            "cost": Decimal("0.95"),
            "is_byok": False,
            "cost_details": {"upstream_inference_cost": None, "upstream_inference_prompt_cost": 1},
        },
        {
            "input_tokens": 194,
            "output_tokens": 2,
            "cache_creation_input_tokens": 100,
            "cost": Decimal("0.95"),
            **INSIDE,
        },
    ),
    "OpenRouter with one's own key: its cost is a fee": (
        {
            "prompt_tokens": 194,
            "completion_tokens": 2,
            "cost": Decimal("0.05"),
            "is_byok": True,
            "cost_details": {"upstream_inference_cost": 1},
        },
        {"input_tokens": 194, "output_tokens": 2, "cost": Decimal("1.05")},
    ),
    "LiteLLM, which adds the names of Anthropic to those of OpenAI": (
        {
            "completion_tokens": 10,
            "prompt_tokens": 50_300,
            "total_tokens": 50_310,
            "completion_tokens_details": {
                "accepted_prediction_tokens": None,
                "audio_tokens": None,
                "reasoning_tokens": 0,
                "rejected_prediction_tokens": None,
                "text_tokens": 10,
                "image_tokens": None,
            },
            "prompt_tokens_details": {
                "audio_tokens": None,
                "cached_tokens": 50_000,
                "text_tokens": None,
                "image_tokens": None,
                "cache_creation_tokens": 200,
                "cache_creation_token_details": {
                    "ephemeral_5m_input_tokens": 50,
                    "ephemeral_1h_input_tokens": 150,
                },
            },
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 50_000,
            "server_tool_use": None,
        },
        {
            "input_tokens": 50_300,
            "output_tokens": 10,
            "cached_input_tokens": 50_000,
            "cache_creation_input_tokens": 200,
            "cache_creation_1h_input_tokens": 150,
            **INSIDE,
        },
    ),
    "Anthropic Messages": (
        {
            "input_tokens": 100,
            "cache_creation_input_tokens": 300,
            "cache_read_input_tokens": 50_000,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
            "output_tokens": 10,
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
            "service_tier": "standard",
            "inference_geo": "not_available",
            "speed": "standard",
            "iterations": None,
        },
        {
            "input_tokens": 100,
            "output_tokens": 10,
            "cached_input_tokens": 50_000,
            "cache_creation_input_tokens": 300,
            "cache_creation_1h_input_tokens": 100,
            "web_searches": 2,
            "service_tier": "standard",
            **OUTSIDE,
        },
    ),
    "Anthropic with nulls": (
        {
            "input_tokens": 100,
            "output_tokens": 10,
            "cache_creation": None,
            "cache_creation_input_tokens": None,
            "cache_read_input_tokens": None,
            "server_tool_use": None,
            "service_tier": None,
        },
        {"input_tokens": 100, "output_tokens": 10},
    ),
    "Anthropic with cache writes by lifetime only": (
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
        },
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_creation_input_tokens": 300,
            "cache_creation_1h_input_tokens": 100,
            **OUTSIDE,
        },
    ),
    "Anthropic with a compaction, which its totals exclude": (
        {
            "input_tokens": 23_000,
            "output_tokens": 1_000,
            "iterations": [
                {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500},
                {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000},
            ],
        },
        {"input_tokens": 203_000, "output_tokens": 4_500},
    ),
    "Gemini": (
        {
            "promptTokenCount": 1_000,
            "cachedContentTokenCount": 400,
            "candidatesTokenCount": 50,
            "thoughtsTokenCount": 150,
            "toolUsePromptTokenCount": 30,
            "totalTokenCount": 1_230,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 500},
                {"modality": "AUDIO", "tokenCount": 300},
                {"modality": "IMAGE", "tokenCount": 100},
                {"modality": "VIDEO", "tokenCount": 80},
                {"modality": "DOCUMENT", "tokenCount": 20},
            ],
            "cacheTokensDetails": [
                {"modality": "AUDIO", "tokenCount": 200},
                {"modality": "VIDEO", "tokenCount": 50},
                {"modality": "TEXT", "tokenCount": 150},
            ],
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 40}],
            "toolUsePromptTokensDetails": [{"modality": "TEXT", "tokenCount": 30}],
            "serviceTier": "standard",
        },
        {
            "input_tokens": 1_030,
            "output_tokens": 50,
            "cached_input_tokens": 400,
            "reasoning_output_tokens": 150,
            "audio_input_tokens": 300,
            "image_input_tokens": 100,
            "video_input_tokens": 30,
            "cached_audio_input_tokens": 200,
            "image_output_tokens": 40,
            "service_tier": "standard",
            **INSIDE,
            **REASONING_BESIDE,
        },
    ),
    "Gemini as its Python SDK writes it": (
        {
            "cache_tokens_details": [{"modality": "AUDIO", "token_count": 2}],
            "cached_content_token_count": 4,
            "candidates_token_count": 5,
            "candidates_tokens_details": None,
            "prompt_token_count": 10,
            "prompt_tokens_details": [{"modality": "AUDIO", "token_count": 10}],
            "thoughts_token_count": 7,
            "tool_use_prompt_token_count": None,
            "tool_use_prompt_tokens_details": None,
            "total_token_count": 22,
            "traffic_type": None,
        },
        {
            "input_tokens": 10,
            "output_tokens": 5,
            "cached_input_tokens": 4,
            "reasoning_output_tokens": 7,
            "audio_input_tokens": 10,
            "cached_audio_input_tokens": 2,
            **INSIDE,
            **REASONING_BESIDE,
        },
    ),
    "Gemini on Vertex AI": (
        {"promptTokenCount": 10, "totalTokenCount": 10, "trafficType": "ON_DEMAND"},
        {"input_tokens": 10, "output_tokens": 0, "service_tier": "ON_DEMAND"},
    ),
    "Gemini Live": (
        {
            "promptTokenCount": 10,
            "responseTokenCount": 6,
            "totalTokenCount": 16,
            "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 6}],
        },
        {"input_tokens": 10, "output_tokens": 6, "audio_output_tokens": 6},
    ),
    "Bedrock Converse": (
        {
            "inputTokens": 100,
            "outputTokens": 10,
            "totalTokens": 50_410,
            "cacheReadInputTokens": 50_000,
            "cacheWriteInputTokens": 300,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 100}, {"ttl": "5m", "inputTokens": 200}],
        },
        {
            "input_tokens": 100,
            "output_tokens": 10,
            "cached_input_tokens": 50_000,
            "cache_creation_input_tokens": 300,
            "cache_creation_1h_input_tokens": 100,
            **OUTSIDE,
        },
    ),
    "Bedrock with each count twice": (
        {
            "inputTokens": 100,
            "outputTokens": 10,
            "cacheReadInputTokenCount": 5,
            "cacheReadInputTokens": 5,
            "cacheWriteInputTokenCount": 0,
            "cacheWriteInputTokens": 0,
        },
        {"input_tokens": 100, "output_tokens": 10, "cached_input_tokens": 5, **OUTSIDE},
    ),
    "OpenTelemetry": (
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
            "gen_ai.usage.cache_read.input_tokens": 50,
            "gen_ai.usage.cache_creation.input_tokens": 25,
            "gen_ai.usage.reasoning.output_tokens": 15,
        },
        {
            "input_tokens": 100,
            "output_tokens": 20,
            "cached_input_tokens": 50,
            "cache_creation_input_tokens": 25,
            "reasoning_output_tokens": 15,
            **INSIDE,
            **REASONING_INSIDE,
        },
    ),
    "OpenTelemetry, nested": (
        {
            "gen_ai": {
                "usage": {
                    "input_tokens": 100,
                    "output_tokens": 20,
                    "cache_read": {"input_tokens": 50},
                }
            }
        },
        {"input_tokens": 100, "output_tokens": 20, "cached_input_tokens": 50, **INSIDE},
    ),
    "OpenTelemetry without its prefix": (
        {"input_tokens": 100, "output_tokens": 20, "cache_read": {"input_tokens": 50}},
        {"input_tokens": 100, "output_tokens": 20, "cached_input_tokens": 50, **INSIDE},
    ),
    "OpenTelemetry, early names": (
        {"gen_ai.usage.prompt_tokens": 100, "gen_ai.usage.completion_tokens": 20},
        {"input_tokens": 100, "output_tokens": 20},
    ),
    "OpenTelemetry of an instrumentation that leaves cache tokens out of the input": (
        {
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
            "gen_ai.usage.cache_read.input_tokens": 5_000,
        },
        {"input_tokens": 100, "output_tokens": 20, "cached_input_tokens": 5_000},
    ),
    "LangChain with Anthropic, whose 0 is not all cache writes": (
        {
            "input_tokens": 53_100,
            "output_tokens": 10,
            "total_tokens": 53_110,
            "input_token_details": {
                "cache_creation": 0,
                "ephemeral_5m_input_tokens": 1_000,
                "ephemeral_1h_input_tokens": 2_000,
                "cache_read": 50_000,
            },
        },
        {
            "input_tokens": 53_100,
            "output_tokens": 10,
            "cached_input_tokens": 50_000,
            "cache_creation_input_tokens": 3_000,
            "cache_creation_1h_input_tokens": 2_000,
            **INSIDE,
        },
    ),
    "Anthropic with fewer cache writes than their parts": (
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_creation_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 1_000},
        },
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_creation_input_tokens": 1_000,
            **OUTSIDE,
        },
    ),
    "Anthropic with more cache writes than their parts": (
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_creation_input_tokens": 500,
            "cache_creation": {"ephemeral_1h_input_tokens": 100},
        },
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_creation_input_tokens": 500,
            "cache_creation_1h_input_tokens": 100,
            **OUTSIDE,
        },
    ),
    "LiteLLM with fewer cache writes than their parts": (
        {
            "prompt_tokens": 2_000,
            "completion_tokens": 10,
            "cache_creation_input_tokens": 500,
            "prompt_tokens_details": {
                "cache_creation_tokens": 500,
                "cache_creation_token_details": {
                    "ephemeral_5m_input_tokens": 1_000,
                    "ephemeral_1h_input_tokens": 200,
                },
            },
        },
        {
            "input_tokens": 2_000,
            "output_tokens": 10,
            "cache_creation_input_tokens": 1_200,
            "cache_creation_1h_input_tokens": 200,
            **INSIDE,
        },
    ),
    "Bedrock with fewer cache writes than their parts": (
        {
            "inputTokens": 1,
            "outputTokens": 2,
            "cacheWriteInputTokens": 0,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 100}],
        },
        {
            "input_tokens": 1,
            "output_tokens": 2,
            "cache_creation_input_tokens": 100,
            "cache_creation_1h_input_tokens": 100,
            **OUTSIDE,
        },
    ),
    "Anthropic in fast mode": (
        {"input_tokens": 1, "output_tokens": 2, "service_tier": "standard", "speed": "fast"},
        {"input_tokens": 1, "output_tokens": 2, "service_tier": "fast"},
    ),
    "xAI Chat Completions": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {
                "text_tokens": 32,
                "audio_tokens": 0,
                "image_tokens": 0,
                "cached_tokens": 6,
            },
            "completion_tokens_details": {
                "reasoning_tokens": 94,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
            "num_sources_used": 2,
            "cost_in_usd_ticks": 37_756_000,
        },
        {
            "input_tokens": 32,
            "output_tokens": 9,
            "cached_input_tokens": 6,
            "reasoning_output_tokens": 94,
            "cost": Decimal("0.0037756"),
            **INSIDE,
            **REASONING_BESIDE,
        },
    ),
    "xAI Responses with tools": (
        {
            "input_tokens": 9_000,
            "input_tokens_details": {"cached_tokens": 3_000},
            "output_tokens": 3_400,
            "output_tokens_details": {"reasoning_tokens": 400},
            "total_tokens": 12_400,
            "num_sources_used": 0,
            "num_server_side_tools_used": 3,
            "cost_in_usd_ticks": 1,
            "server_side_tool_usage_details": {"web_search_calls": 0, "x_search_calls": 3},
            "context_details": {"input_tokens": 9_000, "parts": [1]},
        },
        {
            "input_tokens": 9_000,
            "output_tokens": 3_400,
            "cached_input_tokens": 3_000,
            "reasoning_output_tokens": 400,
            "cost": Decimal("1e-10"),
            **INSIDE,
            **REASONING_INSIDE,
        },
    ),
    "xAI images": ({"cost_in_usd_ticks": 200_000_000}, {"cost": Decimal("0.02")}),
    "OpenRouter with one's own key: without the upstream cost, the cost is unknown": (
        {
            "prompt_tokens": 194,
            "completion_tokens": 2,
            "cost": 0,
            "is_byok": True,
            "cost_details": {"upstream_inference_cost": None},
        },
        {"input_tokens": 194, "output_tokens": 2},
    ),
    "OpenRouter with one's own key: a fee without details": (
        {"prompt_tokens": 194, "completion_tokens": 2, "cost": Decimal("0.1"), "is_byok": True},
        {"input_tokens": 194, "output_tokens": 2},
    ),
    "OpenRouter with one's own key: the upstream cost is 0": (
        {
            "prompt_tokens": 194,
            "completion_tokens": 2,
            "cost": Decimal("0.1"),
            "is_byok": True,
            "cost_details": {"upstream_inference_cost": 0},
        },
        {"input_tokens": 194, "output_tokens": 2, "cost": Decimal("0.1")},
    ),
    "Gemini with modalities of the cache only": (
        {
            "promptTokenCount": 1_000,
            "cachedContentTokenCount": 400,
            "cacheTokensDetails": [
                {"modality": "AUDIO", "tokenCount": 200},
                {"modality": "IMAGE", "tokenCount": 50},
                {"modality": "VIDEO", "tokenCount": 50},
            ],
        },
        {
            "input_tokens": 1_000,
            "output_tokens": 0,
            "cached_input_tokens": 400,
            "audio_input_tokens": 200,
            "image_input_tokens": 50,
            "cached_audio_input_tokens": 200,
            "cached_image_input_tokens": 50,
            **INSIDE,
        },
    ),
    "Gemini with modalities of the cache, but not its size": (
        {
            "promptTokenCount": 1_000,
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 200}],
        },
        {
            "input_tokens": 1_000,
            "output_tokens": 0,
            "cached_input_tokens": 200,
            "audio_input_tokens": 200,
            "cached_audio_input_tokens": 200,
            **INSIDE,
        },
    ),
    "Pydantic AI without a cache": (
        {"input_tokens": 10, "output_tokens": 5, "details": {"reasoning_tokens": 3}, "requests": 1},
        {"input_tokens": 10, "output_tokens": 5, "reasoning_output_tokens": 3, "requests": 1},
    ),
    "Gemini with modalities in lower case": (
        {
            "promptTokenCount": 1_000,
            "promptTokensDetails": [
                {"modality": "audio", "tokenCount": 200},
                {"modality": "Image", "tokenCount": 10},
                {"modality": "text", "tokenCount": 790},
            ],
        },
        {
            "input_tokens": 1_000,
            "output_tokens": 0,
            "audio_input_tokens": 200,
            "image_input_tokens": 10,
        },
    ),
    "Gemini with thoughts in the total only": (
        {"promptTokenCount": 20, "candidatesTokenCount": 424, "totalTokenCount": 1_016},
        {
            "input_tokens": 20,
            "output_tokens": 424,
            "reasoning_output_tokens": 572,
            **REASONING_BESIDE,
        },
    ),
    "cached audio without other audio": (
        {
            "prompt_tokens": 10,
            "completion_tokens": 1,
            "prompt_tokens_details": {
                "cached_tokens": 8,
                "cached_tokens_details": {"audio_tokens": 8},
            },
        },
        {
            "input_tokens": 10,
            "output_tokens": 1,
            "cached_input_tokens": 8,
            "audio_input_tokens": 8,
            "cached_audio_input_tokens": 8,
            **INSIDE,
        },
    ),
    "Vercel AI SDK": (
        {
            "inputTokens": 2_000,
            "outputTokens": 300,
            "totalTokens": 2_300,
            "reasoningTokens": 128,
            "cachedInputTokens": 1_920,
        },
        {
            "input_tokens": 2_000,
            "output_tokens": 300,
            "cached_input_tokens": 1_920,
            "reasoning_output_tokens": 128,
            **INSIDE,
            **REASONING_INSIDE,
        },
    ),
    "Vercel AI SDK with thoughts of Gemini": (
        {
            "inputTokens": 20,
            "outputTokens": 424,
            "totalTokens": 1_016,
            "reasoningTokens": 572,
        },
        {
            "input_tokens": 20,
            "output_tokens": 424,
            "reasoning_output_tokens": 572,
            **REASONING_BESIDE,
        },
    ),
    "Vercel AI SDK with details": (
        {
            "inputTokens": 2_000,
            "inputTokenDetails": {
                "noCacheTokens": 500,
                "cacheReadTokens": 1_000,
                "cacheWriteTokens": 500,
            },
            "outputTokens": 300,
            "outputTokenDetails": {"textTokens": 172, "reasoningTokens": 128},
            "totalTokens": 2_300,
            "raw": {"input_tokens": 500, "cache_creation": {"ephemeral_5m_input_tokens": 500}},
        },
        {
            "input_tokens": 2_000,
            "output_tokens": 300,
            "cached_input_tokens": 1_000,
            "cache_creation_input_tokens": 500,
            "reasoning_output_tokens": 128,
            **INSIDE,
            **REASONING_INSIDE,
        },
    ),
    "Pydantic AI": (
        {
            "input_tokens": 2_000,
            "cache_write_tokens": 500,
            "cache_read_tokens": 1_000,
            "input_audio_tokens": 10,
            "cache_audio_read_tokens": 5,
            "output_tokens": 300,
            "output_audio_tokens": 7,
            "details": {"reasoning_tokens": 128, "input_tokens": 500},
            "requests": 2,
            "tool_calls": 1,
        },
        {
            "input_tokens": 2_000,
            "output_tokens": 300,
            "cached_input_tokens": 1_000,
            "cache_creation_input_tokens": 500,
            "audio_input_tokens": 10,
            "cached_audio_input_tokens": 5,
            "audio_output_tokens": 7,
            "reasoning_output_tokens": 128,
            "requests": 2,
            **INSIDE,
        },
    ),
    "numbers with a fraction of zero": (
        {"input_tokens": 100.0, "output_tokens": Decimal("1e2")},
        {"input_tokens": 100, "output_tokens": 100},
    ),
    "an object of unknown counts": ({"prompt_tokens": None, "completion_tokens": None}, {}),
}


@pytest.mark.parametrize(("usage", "expected"), USAGE.values(), ids=USAGE)
def test_what_a_usage_object_says(usage: dict[str, Any], expected: dict[str, Any]) -> None:
    assert said(usage) == expected
    assert call(usage=usage).unknown_fields == []
    assert call(usage=usage).usage == usage


class SdkUsage(BaseModel):
    """A usage object as SDKs return it."""

    prompt_tokens: int = 10
    completion_tokens: int = 5


@dataclass
class SdkDataclass:
    """A usage object as Pydantic AI returns it."""

    input_tokens: int = 10
    cache_read_tokens: int = 4
    output_tokens: int = 5
    details: dict[str, int] = field(default_factory=dict)


def test_an_object_of_an_sdk() -> None:
    assert said(SdkUsage()) == {"input_tokens": 10, "output_tokens": 5}
    assert said(SdkDataclass()) == {
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_input_tokens": 4,
        **INSIDE,
    }


GROK = {"provider": "xai", "model": "grok-3-mini"}
GROK_USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 300,
    "total_tokens": 600,
    "completion_tokens_details": {"reasoning_tokens": 200},
}
GEMINI = {"provider": "google", "model": "gemini-2.5-flash"}
GEMINI_USAGE = {
    "promptTokenCount": 1_000,
    "toolUsePromptTokenCount": 30,
    "candidatesTokenCount": 50,
    "thoughtsTokenCount": 150,
}


@pytest.mark.parametrize(
    "fields",
    [
        *(GROK | {"usage": GROK_USAGE, "output_tokens": count} for count in (300, 500, "300")),
        GROK | {"usage": GROK_USAGE, "output_tokens": 300, "reasoning_tokens_included": False},
        GROK | {"usage": GROK_USAGE, "output_tokens": 500, "reasoning_tokens_included": True},
        GROK | {"usage": GROK_USAGE, "output_tokens": 500, "reasoning_tokens": 200},
        *(GEMINI | {"usage": GEMINI_USAGE, "output_tokens": count} for count in (50, 200)),
        *(GEMINI | {"usage": GEMINI_USAGE, "input_tokens": count} for count in (1_000, 1_030)),
        *(
            {
                "usage": {
                    "input_tokens": 100,
                    "output_tokens": 10,
                    "cache_read_input_tokens": 5_000,
                    "iterations": [{"type": "compaction", "input_tokens": 7, "output_tokens": 8}],
                },
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
            }
            for input_tokens in (100, 107, 5_107)
            for output_tokens in (10, 18)
        ),
        {
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 60},
            },
            "input_tokens": 40,
            "cache_tokens_included": False,
        },
        *(
            {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": sent}, "cost": cost}
            for sent, cost in ((0.5, "0.5"), (0.1, 0.1), (0.1, "0.10"), (1, 1.0), (1, "1"))
        ),
        *(
            {"usage": {"input_tokens": 1, "output_tokens": 2, **sent}, "service_tier": tier}
            for sent, tier in (
                ({"service_tier": "standard"}, "default"),
                ({"service_tier": "STANDARD"}, "standard"),
                ({"service_tier": "priority"}, "Priority"),
                ({"service_tier": "standard", "speed": "fast"}, "standard"),
                ({"service_tier": "standard", "speed": "fast"}, "fast"),
            )
        ),
        {"usage": {"prompt_tokens": 5}, "input_tokens": "5"},
        {"usage": {"seconds": 12.5}, "audio_seconds": "12.5"},
        {"input_tokens": "5", "prompt_tokens": 5, "output_tokens": 1},
        {
            "usage": {
                "input_tokens": 1,
                "output_tokens": 2,
                "cache_creation_input_tokens": 0,
                "cache_creation": {"ephemeral_5m_input_tokens": 10},
            },
            "cache_creation_input_tokens": 0,
        },
    ],
)
async def test_fields_beside_a_usage_object_that_say_the_same(
    client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    both = await client.post("/api/v1/log", json=NAME | fields)
    assert both.status_code == 200, both.text
    usage_alone = {name: fields[name] for name in ("provider", "model", "usage") if name in fields}
    if "usage" not in fields or "cost" in fields["usage"]:
        return
    alone = await client.post("/api/v1/log", json=NAME | usage_alone)
    assert both.json()["cost"] == alone.json()["cost"]
    stored_alone, stored = (await client.get("/api/v1/logs")).json()
    for name in ("input_tokens", "output_tokens", "cached_input_tokens"):
        assert stored[name] == stored_alone[name]
    assert both.json()["warnings"] == []


@pytest.mark.parametrize(
    ("fields", "usage"),
    [
        (
            GROK | {"input_tokens": 100, "output_tokens": 300, "reasoning_output_tokens": 200},
            GROK_USAGE,
        ),
        (
            GEMINI | {"input_tokens": 1_030, "output_tokens": 50, "reasoning_output_tokens": 150},
            GEMINI_USAGE,
        ),
        (
            NAME | {"input_tokens": 9, "output_tokens": 300, "reasoning_output_tokens": 200},
            {
                "prompt_tokens": 9,
                "completion_tokens": 300,
                "total_tokens": 309,
                "completion_tokens_details": {"reasoning_tokens": 200},
            },
        ),
    ],
)
async def test_a_call_is_stored_alike_from_fields_and_from_a_usage_object(
    client: httpx.AsyncClient, fields: dict[str, Any], usage: dict[str, Any]
) -> None:
    name = {"provider": fields["provider"], "model": fields["model"]}
    costs = [
        (await client.post("/api/v1/log", json=sent)).json()["cost"]
        for sent in (fields, name | {"usage": usage})
    ]
    assert costs[0] == costs[1] is not None
    first, second = (await client.get("/api/v1/logs")).json()
    for count in ("input_tokens", "output_tokens", "cached_input_tokens"):
        assert first[count] == second[count] == fields.get(count, 0)


@pytest.mark.parametrize(
    ("usage", "unknown"),
    [
        ({"prompt_tokens": 1, "foo": 1, "bar": {"a": 1, "b": 2}}, ["usage.foo", "usage.bar"]),
        (
            {"prompt_tokens": 1, "prompt_tokens_details": {"smell_tokens": 0}},
            ["usage.prompt_tokens_details.smell_tokens"],
        ),
        ({"prompt_tokens": 1, "list": [1, {"a": 2}], "empty": [], "none": None}, ["usage.list"]),
        ({"input_tokens": 1, "output_tokens": 1, "speed": "slow"}, ["usage.speed"]),
        ({"input_tokens": 1, "output_tokens": 1, "inference_geo": "us"}, ["usage.inference_geo"]),
        ({"promptTokenCount": 1, "smellTokenCount": 2}, ["usage.smellTokenCount"]),
        ({"gen_ai.usage.input_tokens": 1, "gen_ai.usage.smell": 2}, ["usage.gen_ai.usage.smell"]),
        (
            {
                "input_tokens": 1,
                "output_tokens": 1,
                "iterations": [{"type": "advisor_message", "input_tokens": 3}],
            },
            ["usage.iterations.advisor_message"],
        ),
    ],
)
def test_members_that_are_not_understood(usage: dict[str, Any], unknown: list[str]) -> None:
    assert call(usage=usage).unknown_fields == unknown


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        (
            {"usage": {"prompt_tokens": 5}, "input_tokens": 6},
            ["usage.prompt_tokens", "input_tokens"],
        ),
        (
            {
                "usage": {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}},
                "cached_input_tokens": 0,
            },
            ["usage.prompt_tokens_details.cached_tokens", "cached_input_tokens"],
        ),
        (
            {"usage": {"prompt_tokens": 9, "completion_tokens": 9}, "completion_tokens": 8},
            ["usage.completion_tokens", "output_tokens"],
        ),
        (
            {
                "usage": {"prompt_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 0}},
                "reasoning_tokens": 8,
            },
            ["usage.completion_tokens_details.reasoning_tokens", "reasoning_output_tokens"],
        ),
        ({"usage": {"prompt_tokens": 9, "cost": 1}, "cost": 2}, ["usage.cost", "cost"]),
        ({"usage": {"prompt_tokens": 9, "cost": 1}, "cost": "1.01"}, ["usage.cost", "cost"]),
        (
            {"usage": {"prompt_tokens": 9, "service_tier": "flex"}, "service_tier": "default"},
            ["usage.service_tier", "service_tier"],
        ),
        (
            GROK | {"usage": GROK_USAGE, "output_tokens": 400},
            ["usage.completion_tokens", "output_tokens"],
        ),
        (
            GEMINI | {"usage": GEMINI_USAGE, "output_tokens": 100},
            ["usage.candidatesTokenCount", "output_tokens"],
        ),
        (
            {"usage": {"prompt_tokens": 1, "cost_in_usd_ticks": 0.5}},
            ["usage.cost_in_usd_ticks", "integer"],
        ),
        (
            {
                "usage": {"input_tokens": 1, "cache_read_input_tokens": 2},
                "cache_tokens_included": True,
            },
            ["cache_tokens_included"],
        ),
        (
            {
                "usage": {
                    "prompt_tokens": 9,
                    "cached_tokens": 1,
                    "prompt_tokens_details": {"cached_tokens": 2},
                }
            },
            ["usage.cached_tokens", "usage.prompt_tokens_details.cached_tokens"],
        ),
        ({"usage": {"a": {"b": 1}, "a.b": 2, "prompt_tokens": 3}}, ["usage.a.b"]),
        ({**CALL, "prompt_tokens": 1}, ["prompt_tokens", "input_tokens"]),
        (
            {**CALL, "cached_input_tokens": 1, "cache_read_input_tokens": 2},
            ["cache_read_input_tokens", "cached_input_tokens"],
        ),
        (
            {**CALL, "cached_tokens": 1, "cache_read_input_tokens": 2},
            ["cached_tokens", "cached_input_tokens"],
        ),
        ({"usage": {"prompt_tokens": 1.5}}, ["usage.prompt_tokens", "integer"]),
        ({"usage": {"prompt_tokens": "one"}}, ["usage.prompt_tokens", "integer"]),
        ({"usage": {"prompt_tokens": True}}, ["usage.prompt_tokens", "integer"]),
        ({"usage": {"prompt_tokens": -1}}, ["usage.prompt_tokens"]),
        ({"usage": {"prompt_tokens": 2**53}}, ["usage.prompt_tokens"]),
        ({"usage": {"prompt_tokens": 1, "cost": "1"}}, ["usage.cost", "number"]),
        ({"usage": {"prompt_tokens": 1, "cost": -1}}, ["cost"]),
        ({"usage": {"prompt_tokens": 1, "service_tier": 1}}, ["usage.service_tier", "text"]),
        (
            {
                "usage": {
                    "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 1.5}],
                    "promptTokenCount": 2,
                }
            },
            ["usage.promptTokensDetails.AUDIO.tokenCount"],
        ),
        ({"usage": [1]}, ["usage", "object"]),
        ({"usage": "x"}, ["usage", "object"]),
        ({"usage": {"foo": 1}}, ["usage", "OpenAI"]),
        (
            {
                "usage": {
                    "prompt_tokens": 1,
                    "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 3},
                }
            },
            ["audio_input_tokens"],
        ),
        (CALL | {"output_tokens": 0, "completion_tokens": False}, ["completion_tokens", "integer"]),
        (CALL | {"cached_tokens": "five"}, ["cached_tokens", "integer"]),
        (CALL | {"cached_tokens": -5}, ["cached_tokens"]),
        ({"usage": {}}, ["input_tokens"]),
        ({"usage": None}, ["input_tokens"]),
        ({}, ["input_tokens"]),
    ],
)
async def test_a_usage_that_cannot_be_right_is_refused(
    client: httpx.AsyncClient, fields: dict[str, Any], names: list[str]
) -> None:
    response = await client.post("/api/v1/log", json=NAME | fields)
    assert response.status_code == 422, response.text
    assert all(name in response.json()["detail"] for name in names), response.text
    assert (await client.get("/api/v1/logs")).json() == []


@pytest.mark.parametrize(
    ("alias", "field"),
    [
        ("prompt_tokens", "input_tokens"),
        ("completion_tokens", "output_tokens"),
        ("cache_read_input_tokens", "cached_input_tokens"),
        ("cache_read_tokens", "cached_input_tokens"),
        ("cached_tokens", "cached_input_tokens"),
        ("cache_write_input_tokens", "cache_creation_input_tokens"),
        ("cache_write_tokens", "cache_creation_input_tokens"),
        ("reasoning_tokens", "reasoning_output_tokens"),
    ],
)
def test_other_names_of_fields(alias: str, field: str) -> None:
    totals = {"input_tokens": 50, "output_tokens": 60}
    others = {name: count for name, count in totals.items() if name != field}
    by_alias, by_field = call(**others, **{alias: 7}), call(**others, **{field: 7})
    assert by_alias == by_field == call(**others, **{alias: 7, field: 7})
    assert by_alias == call(**others, **{alias: 7, field: None})
    assert by_field == call(**others, **{alias: None, field: 7})
    assert by_alias.unknown_fields == []
    assert fingerprint_of_call(by_alias, 1) == fingerprint_of_call(by_field, 1)


ANTHROPIC = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
ANTHROPIC_USAGE = {"input_tokens": 100, "cache_read_input_tokens": 50_000, "output_tokens": 10}
OPUS = {"provider": "anthropic", "model": "claude-opus-4-8"}
OPUS_USAGE = {"input_tokens": 100_000, "output_tokens": 1_000}
CONVERSE = {"inputTokens": 100, "cacheReadInputTokens": 50_000, "outputTokens": 10}
LITELLM = {"prompt_tokens": 50_100, "completion_tokens": 10, "cache_read_input_tokens": 50_000}


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        # 100 at 3, 50,000 at 0.3 and 10 at 15 USD per million.
        (ANTHROPIC | ANTHROPIC_USAGE, "0.01545"),
        (ANTHROPIC | {"usage": ANTHROPIC_USAGE}, "0.01545"),
        (ANTHROPIC | {"usage": ANTHROPIC_USAGE} | ANTHROPIC_USAGE, "0.01545"),
        (ANTHROPIC | {"usage": CONVERSE}, "0.01545"),
        # Here the input includes cached tokens, whatever the provider's own API does.
        (ANTHROPIC | {"usage": LITELLM}, "0.01545"),
        (
            ANTHROPIC
            | {"usage": ANTHROPIC_USAGE | {"server_tool_use": {"web_search_requests": 2}}},
            "0.03545",
        ),
        # 500 at 0.3, 500 at 0.03 and 200 at 2.5.
        (
            {
                "provider": "google",
                "model": "gemini-2.5-flash",
                "usage": {
                    "promptTokenCount": 1_000,
                    "cachedContentTokenCount": 500,
                    "candidatesTokenCount": 50,
                    "thoughtsTokenCount": 150,
                },
            },
            "0.000665",
        ),
        # 742 at 0.3, images and video among them, and 258 of audio at 1.
        (
            {
                "provider": "google",
                "model": "gemini-2.5-flash",
                "usage": {
                    "prompt_token_count": 1_000,
                    "candidates_token_count": 0,
                    "traffic_type": "ON_DEMAND",
                    "prompt_tokens_details": [
                        {"modality": "TEXT", "token_count": 42},
                        {"modality": "IMAGE", "token_count": 600},
                        {"modality": "VIDEO", "token_count": 100},
                        {"modality": "AUDIO", "token_count": 258},
                    ],
                },
            },
            "0.0004806",
        ),
        # Its price does not depend on the modality: 1,000 at 1.25.
        (
            {
                "provider": "google",
                "model": "gemini-2.5-pro",
                "usage": {
                    "promptTokenCount": 1_000,
                    "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 258}],
                },
            },
            "0.00125",
        ),
        # Reasoning comes on top: 100 at 0.3, 500 at 0.5.
        (
            {
                "provider": "xai",
                "model": "grok-3-mini",
                "usage": {
                    "prompt_tokens": 100,
                    "completion_tokens": 300,
                    "total_tokens": 600,
                    "completion_tokens_details": {"reasoning_tokens": 200},
                },
            },
            "0.00028",
        ),
        # The object says how it counts, also at another provider.
        (
            {
                "provider": "vertex_ai",
                "model": "claude-sonnet-4-5@20250929",
                "usage": ANTHROPIC_USAGE,
            },
            "0.01545",
        ),
        # 1,000 at 0.15, 9,000 at 0.075 and 100 at 0.6.
        (
            NAME
            | {
                "usage": {
                    "prompt_tokens": 10_000,
                    "completion_tokens": 100,
                    "prompt_tokens_details": {"cached_tokens": 9_000},
                }
            },
            "0.000885",
        ),
        (NAME | {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.5}}, "0.5"),
        # 100,000 at 10, 1,000 at 50: twice the standard price.
        (
            OPUS | {"usage": OPUS_USAGE | {"service_tier": "standard", "speed": "fast"}},
            "1.05",
        ),
        (OPUS | {"usage": OPUS_USAGE, "service_tier": "fast"}, "1.05"),
        (OPUS | {"usage": OPUS_USAGE | {"speed": "standard"}}, "0.525"),
        # 100 at 3, 50,000 at 0.3, 1,000 at 3.75, 2,000 at 6, 10 at 15.
        (
            ANTHROPIC
            | {
                "usage": {
                    "input_tokens": 53_100,
                    "output_tokens": 10,
                    "input_token_details": {
                        "cache_creation": 0,
                        "ephemeral_5m_input_tokens": 1_000,
                        "ephemeral_1h_input_tokens": 2_000,
                        "cache_read": 50_000,
                    },
                }
            },
            "0.0312",
        ),
        # 20 at 0.3, 996 at 2.5.
        *(
            (GEMINI | {"usage": usage}, "0.002496")
            for usage in (
                {"prompt_tokens": 20, "completion_tokens": 424, "total_tokens": 1_016},
                {"input_tokens": 20, "output_tokens": 424, "total_tokens": 1_016},
                {"inputTokens": 20, "outputTokens": 424, "totalTokens": 1_016},
                {"promptTokenCount": 20, "candidatesTokenCount": 424, "totalTokenCount": 1_016},
                {"gen_ai.usage.input_tokens": 20, "gen_ai.usage.total_tokens": 1_016},
            )
        ),
        # 100 at 0.3, 300 at 2.5.
        (GEMINI | {"usage": {"prompt_tokens": 100, "total_tokens": 400}}, "0.00078"),
        # 100 at 0.3, 500 at 0.5.
        (
            GROK | {"usage": {"prompt_tokens": 100, "completion_tokens": 300, "total_tokens": 600}},
            "0.00028",
        ),
        (GROK | {"usage": GROK_USAGE | {"cost_in_usd_ticks": 2_500_001}}, "0.0002500001"),
        # Others count reasoning in the output: the rest of the total is not guessed.
        (NAME | {"usage": {"prompt_tokens": 100, "total_tokens": 400}}, "0.000015"),
        # The fee for one's own key is not the cost.
        (
            {
                "provider": "openrouter",
                "model": "openai/gpt-4o-mini",
                "usage": {
                    "prompt_tokens": 1_000,
                    "completion_tokens": 100,
                    "cost": 0,
                    "is_byok": True,
                    "cost_details": {"upstream_inference_cost": None},
                },
            },
            "0.00021",
        ),
        # 600 at 0.3, 200 of cached text at 0.03, 200 of cached audio at 0.1.
        (
            GEMINI
            | {
                "usage": {
                    "promptTokenCount": 1_000,
                    "cachedContentTokenCount": 400,
                    "cacheTokensDetails": [
                        {"modality": "AUDIO", "tokenCount": 200},
                        {"modality": "TEXT", "tokenCount": 200},
                    ],
                }
            },
            "0.000206",
        ),
        # 80 at 0.15, 1,920 at 0.075, 300 at 0.6.
        (
            NAME
            | {"usage": {"inputTokens": 2_000, "outputTokens": 300, "cachedInputTokens": 1_920}},
            "0.000336",
        ),
        # 500 at 3, 1,000 at 0.3, 500 at 3.75, 300 at 15.
        (
            ANTHROPIC
            | {
                "usage": {
                    "input_tokens": 2_000,
                    "output_tokens": 300,
                    "cache_read_tokens": 1_000,
                    "cache_write_tokens": 500,
                }
            },
            "0.008175",
        ),
    ],
)
async def test_what_a_call_with_a_usage_object_costs(
    client: httpx.AsyncClient, ring: Ring, project_id: ProjectId, fields: dict[str, Any], cost: str
) -> None:
    single = (await client.post("/api/v1/log", json=fields)).json()
    batch = (await client.post("/api/v1/logs/batch", json=[fields])).json()["logged"][0]
    [library] = await ring.usage.log_many(project_id, [NewCall.model_validate(fields)])
    assert [Decimal(str(each["cost"])) for each in (single, batch)] == [Decimal(cost)] * 2
    assert library.cost == Decimal(cost)
    assert (single["warnings"], batch["warnings"], library.warnings) == ([], [], ())


async def test_fast_mode_of_a_model_without_a_price_for_it_is_unpriced(
    client: httpx.AsyncClient,
) -> None:
    usage = ANTHROPIC_USAGE | {"service_tier": "standard", "speed": "fast"}
    logged = (await client.post("/api/v1/log", json=ANTHROPIC | {"usage": usage})).json()
    assert (logged["cost"], logged["cost_source"]) == (0, "unpriced")


def test_fingerprint_of_a_call_with_a_usage_object() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 6}
    found = str(fingerprint_of_call(call(usage=usage), 1))
    assert found != str(fingerprint_of_call(call(input_tokens=5, output_tokens=6), 1))
    assert found != str(fingerprint_of_call(call(usage=usage, input_tokens=5), 1))


def test_an_unknown_field_does_not_change_the_fingerprint() -> None:
    fields = {"input_tokens": 5, "output_tokens": 6}
    assert fingerprint_of_call(call(**fields, user="me"), 1) == fingerprint_of_call(
        call(**fields), 1
    )


def test_a_call_without_counts_is_invalid_for_the_library() -> None:
    with pytest.raises(ValidationError, match="input_tokens"):
        NewCall.model_validate(NAME)


@pytest.mark.parametrize(
    ("field", "sent", "stored"),
    [
        ("input_tokens", 12.0, 12),
        ("output_tokens", 1e3, 1000),
        ("latency_ms", 812.3, 812),
        ("latency_ms", 812.5, 812),
        ("latency_ms", 813.5, 814),
        ("latency_ms", 0.0, 0),
        ("latency_ms", 2_147_483_646.7, 2_147_483_647),
    ],
)
async def test_a_number_without_a_fraction_is_an_integer(
    client: httpx.AsyncClient, field: str, sent: float, stored: int
) -> None:
    response = await client.post("/api/v1/log", json=CALL | {field: sent})
    assert response.status_code == 200, response.text
    [found] = (await client.get("/api/v1/logs")).json()
    assert found[field] == stored


@pytest.mark.parametrize(
    ("field", "number"),
    [
        ("input_tokens", "12.5"),
        ("input_tokens", "1e999999999"),
        ("input_tokens", "1e-999999999"),
        ("input_tokens", "-1.0"),
        ("latency_ms", "-0.4"),
        ("latency_ms", "2147483648.0"),
        ("latency_ms", "1e999999999"),
        ("latency_ms", '"812 ms"'),
        ("latency_ms", "true"),
    ],
)
async def test_other_numbers_are_refused(
    client: httpx.AsyncClient, field: str, number: str
) -> None:
    sent = httpx.Request("POST", "http://x", json=CALL | {field: "HERE"}).content.decode()
    response = await client.post(
        "/api/v1/log",
        content=sent.replace('"HERE"', number),
        headers={"Content-Type": "application/json"},
    )
    assert (response.status_code, response.json()["detail"].split(":")[0]) == (422, field)
