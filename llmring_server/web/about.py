"""About page: `GET /` names the server and its version, in JSON or, for browsers, in HTML."""

import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from importlib.metadata import version
from string import Template
from typing import Annotated

from starlette.responses import Response
from typing_extensions import TypedDict

from llmring_server.web.request import Request, render
from llmring_server.web.request_limits import JSON

NAME = "LLMRing Server"
VERSION = version("llmring-server")
HTML = "text/html; charset=utf-8"

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --card: #fff;
  --page: #f4f6f8; --accent: #0b6b5d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #98a3b1; --line: #2b333d;
  --card: #171c23; --page: #0f1318; --accent: #5cc9b5; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 2rem 1rem;
  background: var(--page); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { width: 100%; max-width: 38rem; padding: 2.25rem 2.5rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 12px; }
h1 { margin: 0; font-size: 1.6rem; letter-spacing: -0.01em; }
h1 small { margin-left: 0.4rem; font-size: 0.9rem; font-weight: 400; color: var(--soft);
  letter-spacing: 0; }
p { margin: 0.5rem 0 0; color: var(--soft); }
ul { margin: 1.75rem 0; padding: 0; list-style: none; border-top: 1px solid var(--line); }
li { border-bottom: 1px solid var(--line); }
a { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: baseline;
  gap: 0 1.5rem;
  padding: 0.7rem 0; color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
code, pre { color: var(--soft); }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { margin: 0.75rem 0 0; overflow-x: auto; }
"""

# The links are relative, so that they hold below the path at which an app is mounted.
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name $version</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<main>
<h1>$name <small>$version</small></h1>
<p>Records LLM calls exactly once, with exact costs and signed receipts.</p>
<ul>
<li><a href="docs">Endpoints <code>/docs</code></a></li>
<li><a href="openapi.json">API description (OpenAPI 3.1) <code>/openapi.json</code></a></li>
<li><a href="health">Health <code>/health</code></a></li>
<li><a href="registry.json">Models and prices <code>/registry.json</code></a></li>
</ul>
$example<p>API requests need a key: <code>X-API-Key: …</code>. The documentation is in the directory
<code>docs</code> of the source; start with <code>docs/getting-started.md</code>.</p>
</main>
</body>
</html>
""")

EXAMPLE = Template("""<p>Log a call:</p>
<pre>$command</pre>
""")

# The key of an example, by the mode of authentication.
EXAMPLE_KEYS = {"open": "my-app", "keys": "llmr_k1_...", "proxy": "...", "parent": "..."}

# A command in the page names the address that the browser asked, but only on its own machine: of
# other hosts, the scheme that a proxy uses is unknown, and a key must not be sent in the clear.
_LOOPBACK_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")


def html_headers(style: str) -> dict[str, str]:
    """Return the headers of a page: nothing may be loaded or run but its style and empty icon."""
    style_hash = b64encode(sha256(style.encode()).digest()).decode()
    return {
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'sha256-{style_hash}'; img-src data:;"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
    }


HTML_HEADERS = html_headers(STYLE)


class About(TypedDict):
    """The name and the version of the server, and the paths of its API page and its models."""

    name: str
    version: str
    docs: str
    registry: str


async def get_root(request: Request) -> Annotated[Response, {JSON: About, HTML: str}]:
    """Show the name and the version of the server, and where its API page and its models are."""
    vary = {"Vary": "Accept"}
    if prefers_html(request.headers.get(b"accept", b"")):
        return Response(_page(request), headers=vary | HTML_HEADERS, media_type=HTML)
    root = request.scope.get("root_path", "")
    about: About = {
        "name": NAME,
        "version": VERSION,
        "docs": f"{root}/docs",
        "registry": f"{root}/registry",
    }
    return Response(render(about), headers=vary, media_type=JSON)


def first_call(url: str, mode: str) -> str:
    """Return the command that logs a call on the server at `url`, as an example."""
    return (
        f"curl {url}/api/v1/log -H 'X-API-Key: {EXAMPLE_KEYS[mode]}'"
        " -H 'Content-Type: application/json' \\\n"
        """    -d '{"provider":"openai","model":"gpt-4o-mini","""
        """"input_tokens":1200,"output_tokens":300}'"""
    )


def _page(request: Request) -> str:
    host = request.headers.get(b"host", b"").decode("latin-1")
    example = ""
    if _LOOPBACK_HOST.fullmatch(host):
        url = f"{request.scope.get('scheme', 'http')}://{host}{request.scope.get('root_path', '')}"
        command = first_call(url, request.ring.settings.auth)
        example = EXAMPLE.substitute(command=escape(command, quote=False))
    return PAGE.substitute(name=escape(NAME), version=escape(VERSION), style=STYLE, example=example)


def prefers_html(accept: bytes) -> bool:
    """Tell if an Accept header (RFC 9110, 12.5.1) ranks HTML above JSON, as that of a browser."""
    quality: dict[str, float] = {}
    for item in accept.decode("latin-1").lower().split(","):
        media, *parameters = [part.strip() for part in item.split(";")]
        weights = [parameter[2:] for parameter in parameters if parameter.startswith("q=")]
        quality[media] = _number(weights[0]) if weights else 1.0
    html = _quality_of(quality, "text/html", "text/*")
    return html > _quality_of(quality, JSON, "application/*")


def _quality_of(quality: dict[str, float], *media_ranges: str) -> float:
    """Return the quality of the most specific range."""
    for media_range in (*media_ranges, "*/*"):
        if media_range in quality:
            return quality[media_range]
    return 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
