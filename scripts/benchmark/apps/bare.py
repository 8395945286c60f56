"""A lower bound: a Starlette route that parses the same body and answers without a database."""

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def log(request: Request) -> Response:
    call = orjson.loads(await request.body())
    response = {"log_id": call["id_at_origin"], "cost": call["cost"], "cost_source": "client"}
    return Response(orjson.dumps(response), media_type="application/json")


app = Starlette(routes=[Route("/api/v1/log", log, methods=["POST"])])
