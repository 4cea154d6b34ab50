# SPDX-License-Identifier: MIT
"""A hundred jobs at a time on one event loop.

python examples/event_loop.py [DATABASE]
"""

import asyncio
import sys

import dibs

app = dibs.App(sys.argv[1] if len(sys.argv) > 1 else "example.db")


@app.task(queue="naps", timeout=30)
async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def main() -> None:
    async with app.worker(jobs=100, mode="asyncio"):
        began = asyncio.get_running_loop().time()
        handles = await asyncio.gather(*(nap.aenqueue(0.2) for _ in range(100)))
        naps = [await handle.aresult(timeout=30) for handle in handles]
        took = asyncio.get_running_loop().time() - began
    print(f"{len(naps)} naps, {sum(naps):.0f} s of sleep, in {took:.1f} s")


if __name__ == "__main__":
    asyncio.run(main())
