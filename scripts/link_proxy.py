#!/usr/bin/env python3
"""A TCP proxy that makes a link slow: a rate and a delay for each direction, and a count of bytes.

    link_proxy.py LISTEN_PORT TARGET_PORT [RATE_BYTES_PER_S] [DELAY_MS]

Both ports are on 127.0.0.1. All connections share the rate of a direction, as they would share a
line. The proxy prints `BYTES_TO_TARGET BYTES_FROM_TARGET CONNECTIONS` after each line that it reads
from its standard input, and starts to count anew. It ends with its input.
"""

import asyncio
import sys

PIECE = 1460


class Line:
    """One direction of the link."""

    def __init__(self, rate, delay):
        self.rate, self.delay = rate, delay
        self.free_at = 0.0
        self.bytes = 0

    async def carry(self, reader, writer):
        loop = asyncio.get_running_loop()
        queue = asyncio.Queue(64)

        async def deliver():
            while True:
                arrives, piece = await queue.get()
                await asyncio.sleep(arrives - loop.time())
                if piece is None:
                    break
                writer.write(piece)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            while piece := await reader.read(PIECE if self.rate else 65536):
                self.bytes += len(piece)
                start = max(self.free_at, loop.time())
                self.free_at = start + (len(piece) / self.rate if self.rate else 0)
                await asyncio.sleep(self.free_at - loop.time())
                await queue.put((self.free_at + self.delay, piece))
            await queue.put((loop.time() + self.delay, None))
            await delivering
        except OSError:
            delivering.cancel()
        finally:
            writer.close()


async def main():
    listen, target = int(sys.argv[1]), int(sys.argv[2])
    rate = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    delay = float(sys.argv[4]) / 1000 if len(sys.argv) > 4 else 0.0
    there, back = Line(rate, delay), Line(rate, delay)
    connections = 0

    async def accept(reader, writer):
        nonlocal connections
        connections += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(there.carry(reader, far_writer), back.carry(far_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", listen)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(there.bytes, back.bytes, connections, flush=True)
        there.bytes = back.bytes = connections = 0
    server.close()


asyncio.run(main())
