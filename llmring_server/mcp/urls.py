"""Where a URL leads, as far as it tells by itself: nobody is asked, not even for a name."""

import ipaddress
import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

# Names that are of no network, or of one's own.
_OURS = (
    "localhost", "localdomain", "local", "internal", "intranet", "lan", "home", "corp", "home.arpa",
    "test",
)  # fmt: skip
# What is read as an IPv4 address, however it is spelled: its last part is a number.
_NUMERIC = re.compile(r"(.*\.)?(0x[0-9a-f]*|\d+)")
_NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}")
# Some names mean the address that is written in them.
_WRITTEN = re.compile(r"(?<!\d)(\d{1,3})[.-](\d{1,3})[.-](\d{1,3})[.-](\d{1,3})(?!\d)")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Not public either, whatever the library says of them: what once meant IPv4 addresses or one's own
# site, translation within a network, and addresses of protocols.
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in ("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "fec0::/10", "192.0.0.0/24")
]


def host_of(url: str) -> str | None:
    """Return a URL's host; None if it has none, or is no URL."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname


def is_public(url: str) -> bool:
    """Tell if a URL names a host of the public network."""
    if url.startswith("stdio:"):
        return False
    host = (host_of(url) or "").removesuffix(".")
    if ":" in host:
        return _is_public_address(host)
    try:
        host = host.encode("idna").decode()
    except UnicodeError:
        return False
    if _NUMERIC.fullmatch(host):
        return _is_public_address(host)
    mine = any(host == name or host.endswith(f".{name}") for name in _OURS)
    written = [".".join(parts) for parts in _WRITTEN.findall(host)]
    return bool(_NAME.fullmatch(host)) and not mine and all(map(_is_public_address, written))


def _is_public_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    inner = _inside(address) if isinstance(address, IPv6Address) else None
    return _is_global(address) and (inner is None or _is_global(inner))


def _inside(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address leads to, if it does."""
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    mapped = isinstance(address, IPv6Address) and address.ipv4_mapped
    ours = address.is_multicast or any(address in network for network in _NOT_PUBLIC)
    return bool(mapped) or (address.is_global and not ours)
