"""A page of a list as an answer: its `Link` header leads to the next one."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from llmring_server.pages import Paged
from llmring_server.web.call import render


def paged(page: Paged, found: Sequence[Any], cursor: str | None) -> Response:
    headers = {}
    if cursor:
        rest = page.model_dump(mode="json", exclude={"cursor", "offset"}, exclude_unset=True)
        headers["Link"] = f'<?{urlencode(rest | {"cursor": cursor})}>; rel="next"'
    return Response(render(found), headers=headers, media_type="application/json")
