"""API page: `GET /docs` lists all endpoints for people, from the OpenAPI document."""

import asyncio
from collections.abc import Iterator
from html import escape
from string import Template
from typing import Annotated, Any

import orjson
from starlette.responses import Response

from llmring_server.web.about import HTML, NAME, VERSION, html_headers
from llmring_server.web.request import Request

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea;
  --page: #fff; --accent: #0b6b5d; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaef; --soft: #98a3b1; --line: #2b333d;
  --page: #0f1318; --accent: #5cc9b5; } }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
h2 { margin: 2.5rem 0 0; }
p, small { color: var(--soft); }
a { color: var(--accent); }
details { border-top: 1px solid var(--line); padding: 0.4rem 0; }
summary { cursor: pointer; }
code, pre { font: 0.9em ui-monospace, monospace; }
pre { white-space: pre-wrap; }
th { text-align: left; padding-right: 1rem; vertical-align: top; font-weight: 400; }
"""
_HEADERS = html_headers(STYLE)

# The link is relative, so that it holds below the path at which an app is mounted.
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API of $name $version</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<h1>$name <small>$version</small></h1>
<p>All endpoints. <a href="openapi.json">openapi.json</a> describes them for programs, with the
bodies of requests and responses.</p>
$groups</body>
</html>
""")


async def get_api_docs(request: Request) -> Annotated[Response, {HTML: str}]:
    """Show all endpoints as an HTML page."""
    # The first request takes a quarter of a second; others need not wait for it.
    page = await asyncio.to_thread(_page, request.app.openapi, request.scope.get("root_path", ""))
    return Response(page, headers=_HEADERS, media_type=HTML)


def _page(openapi: Any, root: str) -> str:
    document = orjson.loads(openapi(root))
    groups = "".join(_groups(document, root))
    return PAGE.substitute(name=escape(NAME), version=escape(VERSION), style=STYLE, groups=groups)


def _groups(document: dict[str, Any], root: str) -> Iterator[str]:
    for tag in document["tags"]:
        yield f"<h2>{escape(tag['name'])}</h2>\n<p>{escape(tag['description'])}</p>\n"
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation["tags"]:
                    yield _operation(f"{method.upper()} {root}{path}", operation)


def _operation(target: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th><code>{escape(parameter['name'])}</code> <small>{escape(parameter['in'])}</small>"
        f"</th><td>{escape(parameter.get('description', ''))}</td></tr>\n"
        for parameter in operation.get("parameters", ())
    )
    return (
        f"<details><summary><code>{escape(target)}</code> {escape(operation['summary'])}</summary>"
        f"\n<pre>{escape(operation.get('description', ''))}</pre>\n"
        f"<table>{rows}</table></details>\n"
    )
