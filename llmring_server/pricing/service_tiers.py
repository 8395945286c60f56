"""Service tiers: providers, clouds and SDKs spell one tier in many ways.

Calls keep the tier that they report; prices are looked up by its normal name.
"""

import re
from functools import lru_cache

CACHE_SIZE = 1024

# By normal name, other spellings; None is the tier of the price list. Case and the separators `-`,
# `_`, `.` and space are ignored. `auto` is what a request asks for: a response that names no other
# tier was served in the standard one.
_SPELLINGS: dict[str | None, tuple[str, ...]] = {
    None: (
        "",
        "auto",
        "default",
        "global_standard",
        "on_demand",
        "regular",
        "service_tier_standard",
        "service_tier_unspecified",
        "standard",
        "standard_only",
        "traffic_type_unspecified",
        "unspecified",
    ),
    "batch": ("batch_api", "batches", "global_batch", "on_demand_batch", "service_tier_batch"),
    "flex": ("on_demand_flex", "service_tier_flex"),
    "priority": ("on_demand_priority", "service_tier_priority"),
    "fast": (),
    # Capacity that is paid in advance or by the hour, whatever the calls use of it: Vertex AI's
    # and Bedrock's provisioned throughput, Azure's provisioned deployments, OpenAI's scale tier.
    "provisioned": (
        "global_provisioned_managed",
        "provisioned_managed",
        "provisioned_throughput",
        "reserved",
        "scale",
    ),
}

PREPAID_TIER = "provisioned"

_SEPARATORS = re.compile(r"[-_.\s]+")


def _without_separators(tier: str) -> str:
    return _SEPARATORS.sub("", tier.casefold())


_NORMAL_TIERS = {
    _without_separators(spelling): tier
    for tier, spellings in _SPELLINGS.items()
    for spelling in (tier or "standard", *spellings)
}


# Clients choose the names, so the number of cached ones is limited.
@lru_cache(CACHE_SIZE)
def normal_tier(tier: str | None) -> str | None:
    """Return the normal name of a service tier, None for the standard one.

    An unknown one is itself, trimmed and case folded.
    """
    return _NORMAL_TIERS.get(_without_separators(tier or ""), (tier or "").strip().casefold())
