# SPDX-License-Identifier: MIT
"""Starlette: as ``fastapi_app.py``.

DIBS_DB=example.db uvicorn starlette_app:api
"""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import dibs

app = dibs.App()  # DIBS_DB


@app.task(queue="thumbnails")
def make_thumbnail(name: str) -> str:
    """A plain function runs in a thread beside the event loop."""
    return f"{name}.small.jpg"


async def upload(request: Request) -> JSONResponse:
    handle = await make_thumbnail.aenqueue(request.path_params["name"])
    return JSONResponse({"thumbnail": await handle.aresult(timeout=10)})


@contextlib.asynccontextmanager
async def lifespan(api: Starlette) -> AsyncIterator[None]:
    async with app.worker(jobs=4, mode="asyncio"):
        yield


api = Starlette(
    routes=[Route("/images/{name}", upload, methods=["PUT"])], lifespan=lifespan
)
