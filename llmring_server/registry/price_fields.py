"""Price fields: each kind of usage, and what genai-prices and the registry call its price."""

from typing import NamedTuple

MILLION = 10**6
THOUSAND = 10**3
HOUR = 3600

# Fields of the registry's models that are prices in USD for a million tokens begin with this.
USD_PER_MILLION_TOKENS = "dollars_per_million_tokens_"


class PriceField(NamedTuple):
    """The price of one kind of usage.

    `units` is how many units the price is for, `genai` an attribute of a genai-prices ModelPrice,
    empty if it has none.
    `registry` are the endings of fields of a registry's model: files differ in spelling, and the
    first field that has a value counts. Kinds without any are priced by other sources only.
    """

    kind: str
    units: int
    genai: str
    registry: tuple[str, ...] = ()

    @property
    def is_token(self) -> bool:
        """Whether its units are tokens."""
        return self.genai.endswith("_mtok")

    @property
    def registry_fields(self) -> tuple[str, ...]:
        """The fields of a registry's model."""
        return tuple(USD_PER_MILLION_TOKENS + ending for ending in self.registry)

    @property
    def long_context_field(self) -> str:
        """The field of a registry's model for prompts above its long-context threshold."""
        return f"{USD_PER_MILLION_TOKENS}{self.kind}_long_context"


PRICE_FIELDS = (
    PriceField("input", MILLION, "input_mtok", ("input",)),
    PriceField("input_audio", MILLION, "input_audio_mtok"),
    PriceField("input_image", MILLION, "input_image_mtok"),
    PriceField("input_video", MILLION, "input_video_mtok"),
    PriceField("cache_read", MILLION, "cache_read_mtok", ("cache_read", "cached_input")),
    PriceField("cache_read_audio", MILLION, "cache_audio_read_mtok"),
    PriceField("cache_read_image", MILLION, "cache_image_read_mtok"),
    PriceField("cache_write", MILLION, "cache_write_mtok", ("cache_write_5m",)),
    PriceField("cache_write_1h", MILLION, "cache_write_1h_mtok", ("cache_write_1h",)),
    PriceField("output", MILLION, "output_mtok", ("output",)),
    PriceField("output_audio", MILLION, "output_audio_mtok"),
    PriceField("output_image", MILLION, "output_image_mtok"),
    PriceField("reasoning", MILLION, "output_reasoning_mtok", ("output_thinking",)),
    PriceField("web_search", THOUSAND, "web_searches_kcount"),
    PriceField("request", THOUSAND, "requests_kcount"),
    PriceField("audio_second", HOUR, "audio_hours"),
    PriceField("video_second", 1, ""),
    PriceField("character", MILLION, "input_mchars"),
    PriceField("image", 1, ""),
)

# Those that the registry has a field for.
REGISTRY_PRICE_FIELDS = tuple(field for field in PRICE_FIELDS if field.registry)
