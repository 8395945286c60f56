"""docs/api.md: generated from the route table, and up to date."""

from llmring_server.routes import API, META
from scripts import api_docs


def test_the_api_documentation_is_up_to_date() -> None:
    hint = "run `python -m scripts.api_docs`"
    assert api_docs.FILE.read_text() == api_docs.render(), hint


def test_the_api_documentation_has_every_route_once() -> None:
    rows = [line.split(" | ") for line in api_docs.render().splitlines() if "| `/" in line]
    documented = [(row[0].removeprefix("| "), row[1].strip("`")) for row in rows]
    assert sorted(documented) == sorted((route.method, route.path_format) for route in API + META)
    for row in rows:
        assert len(row) == 4
        assert row[3].removesuffix(" |").endswith(".")
