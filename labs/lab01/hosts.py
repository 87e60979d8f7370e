#!/usr/bin/python3
"""The hosts in the network of lab01, one a process: hosts.py web|mail|office|vault.

Whoever reads on has cheated nobody but themselves.
"""

import asyncio
import sys

PAGE = """<!DOCTYPE html>
<title>Little Company</title>
<h1>Little Company</h1>
<p>This page is all we show to strangers. Staff: mira reads the mail, the vault keeps what counts.
"""
PASSWORD = "sunflower"
MAILS = [
    "From: admin\r\nTo: mira\r\nSubject: your mail\r\n\r\n"
    "Please do not read it over an open line. You never know who listens.\r\n"
    "flag{whoever-listens-reads-along}\r\n"
]
MAIL_HOST = "10.13.37.20"
CHECKS_MAIL_EVERY_SECONDS = 15


async def lines(reader):
    """What the other side says, line by line, for as long as it behaves."""
    while len(line := await asyncio.wait_for(reader.readline(), 60)) in range(1, 500):
        yield line.decode(errors="replace").strip()


async def web(reader, writer):
    async for line in lines(reader):
        if not line:
            break
    body = PAGE.encode()
    head = "HTTP/1.0 200 OK\r\nServer: nginx/1.18.0\r\nContent-Type: text/html\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


async def mail(reader, writer):
    def say(text):
        writer.write(f"{text}\r\n".encode())

    user = known = None
    say("+OK Dovecot ready.")
    async for line in lines(reader):
        verb, _, rest = line.partition(" ")
        match verb.upper():
            case "QUIT":
                say("+OK Logging out")
                return
            case "CAPA":
                say("+OK\r\nCAPA\r\nUSER\r\n.")
            case "USER":
                user = rest
                say("+OK")
            case "PASS":
                known = (user, rest) == ("mira", PASSWORD)
                say("+OK Logged in." if known else "-ERR [AUTH] Authentication failed.")
            case "STAT" if known:
                say(f"+OK {len(MAILS)} {sum(map(len, MAILS))}")
            case "LIST" if known:
                say(f"+OK {len(MAILS)} messages:")
                for number, text in enumerate(MAILS, 1):
                    say(f"{number} {len(text)}")
                say(".")
            case "RETR" if known and rest in map(str, range(1, len(MAILS) + 1)):
                say(f"+OK\r\n{MAILS[int(rest) - 1]}.")
            case _:
                say("-ERR Unknown command.")


async def teapot(_, writer):
    writer.write(b"HTTP/1.1 418 I'm a teapot\r\nServer: OpenSSH\r\n\r\nNo shell here, only tea.\r\n")


async def read_mail():
    """Mira, who looks for new mail."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(MAIL_HOST, 110)
            for said in ["USER mira", f"PASS {PASSWORD}", "STAT", "QUIT"]:
                await asyncio.wait_for(reader.readline(), 60)
                writer.write(f"{said}\r\n".encode())
            await asyncio.wait_for(reader.read(), 60)
            writer.close()
        except (OSError, TimeoutError, asyncio.TimeoutError):
            pass  # the mail host is not up yet
        await asyncio.sleep(CHECKS_MAIL_EVERY_SECONDS)


async def vault(_, writer):
    writer.write(b"Welcome, answer of the DNS.\r\nflag{anyone-can-choose-a-source-port}\r\n")


def one_answer(answer):
    """A server that gives its answer and hangs up, whatever the other side does."""

    async def serve(reader, writer):
        try:
            await answer(reader, writer)
            await writer.drain()
        except (OSError, ValueError, asyncio.TimeoutError):
            pass
        finally:
            writer.close()

    return serve


async def main(host):
    answer, port = {
        "web": (web, 80),
        "mail": (mail, 110),
        "office": (teapot, 22),
        "vault": (vault, 4711),
    }[host]
    server = await asyncio.start_server(one_answer(answer), "0.0.0.0", port)
    if host == "office":
        await asyncio.gather(server.serve_forever(), read_mail())
    await server.serve_forever()


asyncio.run(main(sys.argv[1]))
