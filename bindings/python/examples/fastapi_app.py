# SPDX-License-Identifier: MIT
"""FastAPI: a request enqueues, and a worker runs in the lifespan.

    DIBS_DB=example.db uvicorn fastapi_app:api

With several server processes each has a worker, and they share the jobs. The
worker may as well be a program of its own, ``python -m dibs worker fastapi_app:app
--asyncio -j 100``: then leave the lifespan out.
"""

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, HTTPException

import dibs

app = dibs.App()  # DIBS_DB


@app.task(queue="emails", max_attempts=5, timeout=30)
async def send_email(to: str) -> str:
    return f"sent to {to}"


@contextlib.asynccontextmanager
async def lifespan(api: FastAPI) -> AsyncIterator[None]:
    async with app.worker(jobs=20, mode="asyncio", grace=10):
        yield


api = FastAPI(lifespan=lifespan)


@api.post("/emails", status_code=202)
async def post_email(to: str) -> dict[str, int]:
    handle = await send_email.aenqueue(to)
    return {"job": handle.id}


@api.get("/emails/{job}")
async def get_email(job: int) -> dict[str, object]:
    try:
        result = await send_email.handle(job).aresult(timeout=5)
    except (dibs.NotFoundError, TimeoutError):
        raise HTTPException(404) from None
    return {"result": result}
