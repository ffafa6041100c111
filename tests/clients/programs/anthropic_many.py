"""The `anthropic` SDK, many times at once."""

import asyncio
import os

from anthropic import AsyncAnthropic
from harness import MODEL, play


async def many():
    together = asyncio.Semaphore(50)
    async with AsyncAnthropic() as client:

        async def ask(number):
            async with together:
                messages = [{"role": "user", "content": str(number)}]
                return (await client.messages.create(model=MODEL, max_tokens=200, messages=messages)).content[0].text

        return await asyncio.gather(*map(ask, range(int(os.environ["CALLS"]))))


play(many=many)
