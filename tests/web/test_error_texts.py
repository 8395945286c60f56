"""The texts of errors: in the words of JSON, of the one who sent the request."""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

import httpx
import pytest
from pgdbm import AsyncDatabaseManager
from pydantic import AfterValidator, BaseModel, ValidationError

from llmring_server import Settings, create_app
from llmring_server.core.validation import errors_of
from llmring_server.pricing.sources import TieredRate
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


INSTANT = "write 2026-11-30 or 2026-11-30T08:00:00Z (in a URL, write + as %2B)"
# One that is not a date has the same text, whatever is wrong with it.
NOT_DATES = [
    "2026-11-30T08:00:00 01:00", "2026-11-30T08:00:00Zcanary", "20-canary", "canary", "2026-13-45",
    "2026-canary", "1764489600", "1.5", "2026-11-30T25:00:00Z", "30.11.2026",
]  # fmt: skip


@pytest.mark.parametrize("value", NOT_DATES)
@pytest.mark.parametrize("name", ["start_date", "end_date"])
async def test_a_date_that_is_none_is_described_by_the_form_of_one(
    client: httpx.AsyncClient, name: str, value: str
) -> None:
    for path in ("/api/v1/stats", "/api/v1/logs", "/api/v1/logs/export"):
        response = await client.get(path, params={name: value})
        assert response.status_code == 422
        problem = response.json()
        assert problem["detail"] == f"{name}: {INSTANT}"
        [error] = problem["errors"]
        assert (error["loc"], error["msg"]) == ([name], INSTANT)
        assert "canary" not in response.text


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        (LOG, CALL | {"logged_at": "2026-11-30T08:00:00"}, "logged_at: add an offset, such as Z"),
        (LOG, CALL | {"logged_at": "2026-11-30"}, "logged_at: add an offset, such as Z"),
        (LOG, CALL | {"logged_at": "soon"}, "logged_at: write 2026-11-30"),
        ("/api/v1/receipts/generate", {"start_date": "soon"}, f"start_date: {INSTANT}"),
    ],
)
async def test_locations_name_fields_and_no_types(
    client: httpx.AsyncClient, path: str, body: Any, detail: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 422
    problem = response.json()
    assert problem["detail"].startswith(detail)
    for error in problem["errors"]:
        assert error["loc"] == [detail.partition(":")[0]]


class Several(BaseModel):
    """Fields of types for which pydantic names what it tried."""

    when: datetime | date | None = None
    amount: int | TieredRate | dict[str, Decimal] | None = None
    each: dict[str, int | list[str]] = {}
    checked: Annotated[int, AfterValidator(abs)] | Annotated[list[int], AfterValidator(len)] = 0


@pytest.mark.parametrize(
    ("value", "locations"),
    [
        ({"when": "x"}, {("when",)}),
        ({"amount": "x"}, {("amount",)}),
        ({"checked": "x"}, {("checked",)}),
        ({"each": {"one": {}}}, {("each", "one")}),
        (
            {"each": {"X-Key": {}, "Authorization": {}}},
            {("each", "X-Key"), ("each", "Authorization")},
        ),
    ],
)
def test_types_that_were_tried_are_no_part_of_a_location(
    value: dict[str, Any], locations: set[tuple[str, ...]]
) -> None:
    with pytest.raises(ValidationError) as raised:
        Several.model_validate(value)
    errors = errors_of(raised.value)
    assert {error["loc"] for error in errors} == locations
    assert len({(error["loc"], error["msg"]) for error in errors}) == len(errors)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("orign", "origin"),
        ("Model", "model"),
        ("modle", "model"),
        ("alais", "alias"),
        ("zzz", None),
    ],
)
async def test_an_unknown_name_suggests_a_similar_one(
    client: httpx.AsyncClient, name: str, meant: str | None
) -> None:
    hint = f"Did you mean {meant}?" if meant else ""
    refused = await client.get("/api/v1/logs", params={name: "canary"})
    strict = await client.post(f"{LOG}?strict=true", json=CALL | {name: "canary"})
    for response in (refused, strict):
        assert response.status_code == 422
        problem = response.json()
        for text in (problem["detail"], problem["errors"][0]["msg"]):
            assert text.endswith(hint)
            assert "Did you mean" in text or not meant
        assert "canary" not in response.text
    logged = (await client.post(LOG, json=CALL | {name: "canary"})).json()
    [warning] = logged["warnings"]
    assert warning["detail"] == f"No field has this name. {hint}".strip()
    created = await client.post(
        "/api/v1/conversations?strict=true", json={"title": "x", "titel": "canary"}
    )
    assert "Did you mean title?" in created.json()["detail"]


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
    ("/api/v1/stat", "/api/v1/stats"),
    ("/stat", "/api/v1/stats"),
    ("/api/v1/logs/bath", "/api/v1/logs/batch"),
    ("/api/v1/mcp/server", "/api/v1/mcp/servers"),
    ("/helth", "/health"),
]


@pytest.mark.parametrize(("path", "similar"), UNKNOWN)
async def test_an_unknown_path_names_a_similar_one_and_the_description_of_all(
    client_of_each_kind: httpx.AsyncClient, path: str, similar: str | None
) -> None:
    root = client_of_each_kind.base_url.path.rstrip("/")
    meant = f"Did you mean {root}{similar}? " if similar else ""
    for method in ("GET", "POST"):
        response = await client_of_each_kind.request(method, path)
        assert response.status_code == 404
        assert response.json()["code"] == "not_found"
        described = f"GET {root}/openapi.json describes all paths."
        assert response.json()["detail"] == f"No such path. {meant}{described}"


async def test_without_a_description_none_is_named(db: AsyncDatabaseManager) -> None:
    app = create_app(db, include_meta_routes=False, settings=Settings(auth="open"))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/nowhere")).json()["detail"] == "No such path."
        assert "Did you mean /api/v1/log?" in (await client.get("/log")).json()["detail"]


async def test_a_method_that_a_path_does_not_have_is_still_405(client: httpx.AsyncClient) -> None:
    assert (await client.get(LOG)).status_code == 405
