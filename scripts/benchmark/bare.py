"""The yardstick: a route that reads the same body and answers, with no database behind it."""

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def log(request: Request) -> Response:
    entry = orjson.loads(await request.body())
    answer = {"log_id": entry["id_at_origin"], "cost": entry["cost"], "cost_source": "client"}
    return Response(orjson.dumps(answer), media_type="application/json")


app = Starlette(routes=[Route("/api/v1/log", log, methods=["POST"])])
