"""Invalid requests in bytes, each with the status of its response."""

from tests.support.invalid_bodies import GOOD

CANARY = b"c4n4ry"
KIB = 1024
CLOSE = b"Connection: close"
KEY = b"X-API-Key: " + CANARY
CHUNKED = b"Transfer-Encoding: chunked"
JSON = b"Content-Type: application/json"


def head(first: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([first, *fields, b"", b""])


def get(*fields: bytes, target: bytes = b"/api/v1/logs", method: bytes = b"GET") -> bytes:
    return head(method + b" " + target + b" HTTP/1.1", b"Host: test", KEY, CLOSE, *fields)


def post(*fields: bytes, target: bytes = b"/api/v1/log") -> bytes:
    return get(JSON, *fields, target=target, method=b"POST")


def sized(body: bytes, *fields: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return post(b"Content-Length: %d" % length, *fields) + body


def chunked(body: bytes, *trailers: bytes, extension: bytes = b"") -> bytes:
    chunk = b"%x%b\r\n%b\r\n" % (len(body), extension, body)
    return post(CHUNKED) + chunk + head(b"0", *trailers)


def media(kind: bytes, *fields: bytes) -> bytes:
    size = b"Content-Length: %d" % len(GOOD)
    return get(kind, size, *fields, target=b"/api/v1/log", method=b"POST") + GOOD


def once(first: bytes, *fields: bytes) -> bytes:
    """A request with exactly these headers."""
    return head(first, KEY, CLOSE, *fields)


TWICE = [
    b"X-API-Key: a",
    b"Authorization: Bearer a",
    b"X-User-ID: a",
    b"X-Project-ID: a",
    b"X-Proxy-Signature: a",
    b"Idempotency-Key: a",
    b"Content-Type: application/json",
]
HUGE = b'"' + b"x" * 256 * KIB + b'"'
PATH = b"GET /api/v1/logs HTTP/1.1"

# Requests that any server passes on to the app, or rejects itself.
ANYWHERE: dict[str, tuple[int, bytes]] = {
    **{f"twice {each.decode()}": (400, get(each, each)) for each in TWICE},
    "two keys that differ": (400, get(b"X-API-Key: other")),
    "Bearer and key that differ": (400, get(b"Authorization: Bearer other")),
    "no key": (401, head(PATH, b"Host: test", CLOSE)),
    "key with a space": (401, head(PATH, b"Host: test", CLOSE, b"X-API-Key: a b")),
    "key of 256": (401, head(PATH, b"Host: test", CLOSE, b"X-API-Key: " + b"k" * 256)),
    "key not ASCII": (401, head(PATH, b"Host: test", CLOSE, b"X-API-Key: \xff\xfe")),
    "key with underscores": (401, head(PATH, b"Host: test", CLOSE, b"X_API_Key: a")),
    "a proxy's headers": (401, head(PATH, b"Host: test", CLOSE, b"X-User-ID: a")),
    "idempotency key not ASCII": (400, sized(GOOD, b"Idempotency-Key: \xff")),
    "no Host": (400, once(PATH)),
    "two Hosts": (400, once(PATH, b"Host: test", b"Host: test")),
    "Host with a user": (400, once(PATH, b"Host: a@b")),
    "Host with a path": (400, once(PATH, b"Host: a/b")),
    "Host not ASCII": (400, once(PATH, b"Host: \xc3\xa9")),
    "head over 16 KiB": (431, get(b"X-A: " + b"a" * 16 * KIB)),
    "101 fields": (431, get(*[b"X-A: a"] * 98)),
    "target over 8 KiB": (414, get(target=b"/" + b"a" * 8 * KIB)),
    "query over 8 KiB": (414, get(target=b"/api/v1/logs?" + b"a" * 8 * KIB)),
    "encoded twice": (400, post(b"Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n"),
    "chunked HTTP/1.0": (400, once(b"POST /api/v1/log HTTP/1.0", JSON, CHUNKED) + b"0\r\n\r\n"),
    "%zz": (404, get(target=b"/%zz")),
    "%00": (404, get(target=b"/%00")),
    "dots": (404, get(target=b"/api/v1/../v1/logs")),
    "two slashes": (404, get(target=b"//api/v1/logs")),
    "TRACE": (405, get(method=b"TRACE")),
    "PUT": (405, get(method=b"PUT")),
    "text/plain": (415, media(b"Content-Type: text/plain")),
    "no media type": (415, media(b"X-A: a")),
    "form": (415, media(b"Content-Type: multipart/form-data; boundary=x")),
    "utf-16": (415, media(b"Content-Type: application/json; charset=utf-16")),
    "gzip": (415, media(JSON, b"Content-Encoding: gzip")),
    "br": (415, media(JSON, b"Content-Encoding: br")),
    "body over the cap": (413, sized(HUGE)),
    "body over the cap, in chunks": (413, chunked(HUGE)),
    "body longer than its length": (400, sized(GOOD, size=len(GOOD) - 1)),
    "empty body": (400, sized(b"")),
    "null": (422, sized(b"null")),
    "bytes that are not UTF-8": (400, sized(b'{"model": "\xc0\xaf"}')),
}

# Requests that are not valid HTTP, or that only our protocol can reject.
SERVED: dict[str, tuple[int, bytes]] = {
    "folded header": (400, get(b"X-A: a\r\n b")),
    "NUL in a header": (400, get(b"X-A: a\0b")),
    "space before the colon": (400, get(b"X-A : a")),
    "no name": (400, get(b": a")),
    "bare LF": (400, get().replace(b"\r\n", b"\n")),
    "bare CR": (400, get(b"X-A: a\rX-B: b")),
    "length and chunks": (400, post(b"Content-Length: 5", CHUNKED) + b"0\r\n\r\n"),
    "two lengths": (400, sized(b"hello", b"Content-Length: 6")),
    "length +5": (400, post(b"Content-Length: +5") + b"hello"),
    "length beyond 64 bits": (400, post(b"Content-Length: " + b"9" * 30)),
    "xchunked": (400, post(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n"),
    "chunked, identity": (400, post(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n"),
    "chunk of 17 digits": (400, post(CHUNKED) + b"f" * 17 + b"\r\nx\r\n0\r\n\r\n"),
    "chunk of 0x1": (400, post(CHUNKED) + b"0x1\r\nx\r\n0\r\n\r\n"),
    "chunk extension of 200 KB": (400, chunked(GOOD, extension=b";" + b"a" * 200_000)),
    "chunk without a size": (400, post(CHUNKED) + b"1\r\nx\r\n" * 9 + b"?\r\n"),
    "trailers of 200 KB": (400, chunked(GOOD, b"X-A: " + b"a" * 200_000)),
    "head of 10 MB": (431, get(b"X-A: " + b"a" * 10_000_000)),
    "head that does not end": (431, get(b"X-A: " + b"a" * 40 * KIB)[:-4]),
    "target of 1 MB": (414, get(target=b"/" + b"a" * 1_000_000)),
    "key of 1 MB": (431, get(b"X-API-Key: " + b"a" * 1_000_000)),
    "5,000 fields": (431, get(*[b"X-A: a"] * 5000)),
    "target @evil": (400, get(target=b"@evil")),
    "another host's URL": (400, get(target=b"http://evil/api/v1/logs")),
    "another host's URL, ours before the @": (400, get(target=b"http://test@evil/api/v1/logs")),
    "UTF-8 in the path": (400, get(target="/é".encode())),
    "CONNECT": (400, get(target=b"test:80", method=b"CONNECT")),
    "OPTIONS *": (400, get(target=b"*", method=b"OPTIONS")),
    "unknown method": (400, get(method=b"__init__")),
    "lower case method": (400, get(method=b"get")),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/2.0 as text": (505, head(b"GET /api/v1/logs HTTP/2.0", b"Host: test", KEY)),
    "HTTP/1.2": (400, head(b"GET /api/v1/logs HTTP/1.2", b"Host: test", KEY)),
    "HTTP/0.9": (505, head(b"GET /api/v1/logs HTTP/0.9", KEY)),
    "HTTP/0.9 without a version": (505, b"GET /api/v1/logs\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
}
