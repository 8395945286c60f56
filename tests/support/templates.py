"""Templates to test with."""

from typing import Any

import httpx

TEMPLATES = "/api/v1/templates"

NEW_TEMPLATE: dict[str, Any] = {
    "name": "support",
    "created_by": "ada",
    "system_prompt": "Hi {{ who }}",
}


async def create_template(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post(TEMPLATES, json=NEW_TEMPLATE | fields)
    assert response.status_code == 200, response.text
    template: dict[str, Any] = response.json()
    return template
