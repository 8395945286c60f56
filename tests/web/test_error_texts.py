"""The texts of errors: in the words of JSON, of the one who sent the request."""

from typing import Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager
from pydantic import BaseModel, ValidationError

from llmring_server import Settings, create_app
from llmring_server.core.validation import errors_of
from tests.conftest import CALL
from tests.support.command_line import invoke

LOG = "/api/v1/log"
# Words of Python and pydantic.
FOREIGN = ("Decimal", "decimal object", "Value error", "Assertion", "dictionary", "valid list")


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        (LOG, CALL | {"cost": "much"}, "cost: Input should be a number"),
        (LOG, CALL | {"cost": [1]}, "cost: Input should be a number"),
        (LOG, CALL | {"cost": {}}, "cost: Input should be a number"),
        (LOG, CALL | {"cost": True}, "cost: Input should be a number"),
        (LOG, CALL | {"cost": -1}, "cost: Input should be greater than or equal to 0"),
        (LOG, CALL | {"cost": "1e999"}, "cost: Input should be a number"),
        (LOG, CALL | {"cost": "NaN"}, "cost: Input should be a number"),
        (LOG, [], "request: Input should be an object"),
        (LOG, CALL | {"metadata": []}, "metadata: "),
        (LOG, CALL | {"model": "\0"}, ""),
        ("/api/v1/conversations", {"title": 1}, "title: Input should be a valid string"),
        ("/api/v1/templates", {"name": "x", "content": "{{", "tags": "a"}, ""),
        ("/api/v1/mcp/servers", {"name": "x", "url": "nowhere"}, ""),
        ("/api/v1/receipts/generate", {"tags": "a"}, ""),
    ],
)
async def test_invalid_input_is_described_in_the_words_of_json(
    client: httpx.AsyncClient, path: str, body: Any, detail: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code in {400, 422}
    problem = response.json()
    assert problem["detail"].startswith(detail)
    assert not [word for word in FOREIGN if word in response.text]
    for error in problem.get("errors", []):
        assert {"type", "loc", "msg"} <= error.keys()


class Everything(BaseModel):
    """Fields of the types whose errors pydantic describes with types of Python."""

    a_list: list[int]
    a_tuple: tuple[int, ...]
    a_set: set[int]
    a_dict: dict[str, int]
    nothing: None
    model: "Everything | None" = None


def test_each_type_of_python_has_a_name_in_json() -> None:
    with pytest.raises(ValidationError) as raised:
        Everything.model_validate(dict.fromkeys(Everything.model_fields, "canary"))
    texts = {error["loc"][0]: error["msg"] for error in errors_of(raised.value)}
    assert texts == {
        "a_list": "Input should be an array",
        "a_tuple": "Input should be an array",
        "a_set": "Input should be an array",
        "a_dict": "Input should be an object",
        "nothing": "Input should be null",
        "model": "Input should be an object",
    }
    assert "canary" not in repr(errors_of(raised.value))


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("db", "url"), {"LLMRING_DATABASE_URL": "mysql://u@h/x"}),
        (("db", "url"), {"LLMRING_DATABASE_URL": "postgresql://h/x?frobnicate=1"}),
        (("db", "url"), {"LLMRING_AUTH": "proxy"}),
        (("db", "url"), {"LLMRING_RATE_LIMIT": "many"}),
        (("db", "url"), {"LLMRING_REGISTRY_URL": "ftp://x"}),
        (("prices", "override", "--provider", "a b", "--model", "x", "--input", "1"), {}),
        (("aliases", "bind", "a", ""), {}),
    ],
)
def test_commands_describe_invalid_input_without_words_of_python(
    arguments: tuple[str, ...], environment: dict[str, str]
) -> None:
    ran = invoke(*arguments, environment={"COLUMNS": "300", "PATH": "/bin"} | environment)
    assert ran.returncode == 2
    assert not [word for word in FOREIGN if word in ran.stderr]


UNKNOWN = [
    ("/nowhere", None),
    ("/api/v1/nowhere", None),
    ("/api/v2/nowhere/at/all", None),
    ("/log", LOG),
    ("/v1/log", LOG),
    ("/api/log", LOG),
    ("/api/v2/log", LOG),
    ("/api/v1/api/v1/log", LOG),
    ("/v1/conversations/1", "/api/v1/conversations/{id}"),
    ("/api/v1/health", "/health"),
    ("/api/v1/registry.json", "/registry.json"),
    ("/API/V1/log", None),
]


@pytest.mark.parametrize(("path", "similar"), UNKNOWN)
async def test_an_unknown_path_names_a_similar_one_and_the_description_of_all(
    client: httpx.AsyncClient, path: str, similar: str | None
) -> None:
    root = client.base_url.path.rstrip("/")
    meant = f"Did you mean {root}{similar}? " if similar else ""
    for method in ("GET", "POST"):
        response = await client.request(method, path)
        assert response.status_code == 404
        assert response.json()["code"] == "not_found"
        described = f"GET {root}/openapi.json describes all paths."
        assert response.json()["detail"] == f"No such path. {meant}{described}"
    assert (await client.get("/openapi.json")).status_code == 200


async def test_without_a_description_none_is_named(db: AsyncDatabaseManager) -> None:
    app = create_app(db, include_meta_routes=False, settings=Settings(auth="open"))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/nowhere")).json()["detail"] == "No such path."
        assert "Did you mean /api/v1/log?" in (await client.get("/log")).json()["detail"]


async def test_a_method_that_a_path_does_not_have_is_still_405(client: httpx.AsyncClient) -> None:
    assert (await client.get(LOG)).status_code == 405
