# Does not work: one crash breaks the whole pool, so the request after it fails.
import asyncio
import os
import urllib.error
import urllib.request
from concurrent.futures import ProcessPoolExecutor


def smallest_factor(number):
    if number == 0:
        os.abort()
    return next((factor for factor in range(2, number) if number % factor == 0), number)


async def answer(pool, path):
    number = path.removeprefix("/")
    if not number.isdigit():
        return "400 Bad Request", f"{path} is not a number"
    try:
        factor = await asyncio.get_running_loop().run_in_executor(pool, smallest_factor, int(number))
    except Exception as error:
        return "500 Internal Server Error", repr(error)
    return "200 OK", f"{number} is divisible by {factor}"


async def main(pool):
    async def respond(reader, writer):
        request = await reader.readuntil(b"\r\n\r\n")
        status, text = await answer(pool, request.split()[1].decode())
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        await writer.drain()
        writer.close()

    def get(number):
        try:
            with urllib.request.urlopen(f"http://{address}/{number}") as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        address = f"{host}:{port}"
        for number in ["1000003", "0", "91"]:
            status, text = await asyncio.to_thread(get, number)
            print(f"GET /{number}: {status} {text}")
        assert status == 200, text


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        asyncio.run(main(pool))
