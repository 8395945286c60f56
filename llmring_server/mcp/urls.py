"""MCP server URLs: their syntax, and whether one names a public host.

A URL is judged by its text alone. No name is resolved and no host is contacted.
"""

import ipaddress
import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

# No user or password: those belong in `auth_config`, which is encrypted.
URL_PATTERN = (
    r"^((https?|wss?)://[^\s\x00-\x20\x7f@\\/?#]+([/?#][^\s\x00-\x20\x7f]*)?"
    r"|stdio://[^\x00-\x1f\x7f]*[^\s\x00-\x20\x7f][^\x00-\x1f\x7f]*)$"
)

# Host names, and suffixes of them, that never lead to the public network.
_PRIVATE_NAMES = (
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "lan",
    "home",
    "corp",
    "home.arpa",
    "test",
)
# Resolvers read a host whose last label is a number as an IPv4 address, in whatever notation.
_NUMERIC_HOST = re.compile(r"(.*\.)?(0x[0-9a-f]*|\d+)")
_DOMAIN_NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}")
# Wildcard DNS services resolve names like 10-0-0-1.sslip.io to the address that they contain.
_IPV4_IN_NAME = re.compile(r"(?<!\d)(\d{1,3})[.-](\d{1,3})[.-](\d{1,3})[.-](\d{1,3})(?!\d)")

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Networks that `ipaddress` counts as global but that are not public hosts.
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "::/96",  # IPv4-compatible, deprecated
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b:1::/48",  # local-use translation
        "fec0::/10",  # site-local, deprecated
        "192.0.0.0/24",  # protocol assignments
    )
]


def check_url(url: str) -> str:
    """Return `url`, or raise ValueError if it is not an MCP server's URL."""
    has_host = url.startswith("stdio:") or host_of(url)
    # With fullmatch, since `$` also matches before a newline at the end.
    if not has_host or not re.fullmatch(URL_PATTERN, url):
        raise ValueError(
            "must be an http, https, ws or wss URL without user and password,"
            " or stdio:// followed by a command"
        )
    return url


def host_of(url: str) -> str | None:
    """Return a URL's host; None if it has none, or if the URL is malformed."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is out of range
    except ValueError:
        return None
    return parts.hostname


def is_public(url: str) -> bool:
    """Return whether a URL names a host of the public network."""
    if url.startswith("stdio:"):
        return False
    host = (host_of(url) or "").removesuffix(".")
    if ":" in host:
        return _is_public_address(host)
    try:
        host = host.encode("idna").decode()
    except UnicodeError:
        return False
    if _NUMERIC_HOST.fullmatch(host):
        return _is_public_address(host)
    return _is_public_name(host)


def _is_public_name(host: str) -> bool:
    if not _DOMAIN_NAME.fullmatch(host):
        return False
    if any(host == name or host.endswith(f".{name}") for name in _PRIVATE_NAMES):
        return False
    addresses = (".".join(octets) for octets in _IPV4_IN_NAME.findall(host))
    return all(_is_public_address(address) for address in addresses)


def _is_public_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    embedded = _embedded_ipv4(address) if isinstance(address, IPv6Address) else None
    return _is_global(address) and (embedded is None or _is_global(embedded))


def _embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for, if there is one."""
    if address in _NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    # Of a mapped address, the IPv4 address inside decides.
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return True
    if address.is_multicast or any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global
