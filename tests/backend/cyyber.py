"""Runs the program `cyyber`: returns the JSON that it answers with, or raises what went wrong.

The only file that starts a process. It knows nothing of HTTP. Needs Python 3.11.
"""

import asyncio
import json
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

Document = dict[str, Any]

log = logging.getLogger("uvicorn.error.cyyber")


class CyyberError(Exception):
    """A command that failed. `report`, of a command on many instances, is how each of them went."""

    def __init__(self, exit_code: int, code: str, message: str, report: Document | None = None):
        super().__init__(message)
        self.exit_code = exit_code
        self.code = code
        self.message = message
        self.report = report


class TooManyError(Exception):
    """A user has more requests under way than a page ever needs."""


class Queue:
    """Runs a bounded number at once, of each user one: a second click finds the work of the first
    one done, and nobody takes the places of everybody by clicking."""

    def __init__(self, at_once: int, waiting: int):
        self._places = asyncio.Semaphore(at_once)
        self._waiting = waiting
        self._turns: defaultdict[str | None, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._present: Counter[str | None] = Counter()

    @asynccontextmanager
    async def place(self, user: str | None) -> AsyncIterator[None]:
        """Waits for this user's turn, and for a place. Raises TooManyError."""
        if self._present[user] > self._waiting:
            raise TooManyError
        self._present[user] += 1
        try:
            async with self._turns[user], self._places:
                yield
        finally:
            self._present[user] -= 1
            if not self._present[user]:
                del self._present[user], self._turns[user]


class Cyyber:
    """The program, run a bounded number of times at once. Raises CyyberError, TooManyError or
    TimeoutError.

    Reading takes milliseconds and acting up to a minute, so they have queues of their own.
    """

    def __init__(self, program: str, at_once: int, waiting: int, timeout: float):
        self._program = program
        self._timeout = timeout
        self._reading = Queue(at_once, waiting)
        self._acting = Queue(at_once, waiting)

    async def read(self, user: str | None, *arguments: str) -> Document:
        """Runs a command that changes nothing. For a user, nothing of anyone else exists."""
        return await self._take_turn(self._reading, user, arguments)

    async def act(self, user: str | None, *arguments: str) -> Document:
        """Runs a command that changes something."""
        return await self._take_turn(self._acting, user, arguments)

    async def _take_turn(
        self, queue: Queue, user: str | None, arguments: tuple[str, ...]
    ) -> Document:
        async with asyncio.timeout(self._timeout), queue.place(user):
            return await self._run(user, arguments)

    async def _run(self, user: str | None, arguments: tuple[str, ...]) -> Document:
        as_user = [] if user is None else [f"--as-user={user}"]
        command = [self._program, "--output=json", *as_user, *arguments]
        # No argument can hold a NUL byte, and uvloop cuts it off there: it would be another one.
        if any("\0" in argument for argument in command):
            raise CyyberError(2, "usage", "bad argument: it has a NUL byte in it")
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                # Ctrl-C on the server must not reach a command in the middle of its work.
                start_new_session=True,
            )
        except OSError as error:
            raise CyyberError(8, "unavailable", f"failed to run {command[0]}: {error}") from error
        try:
            stdout, stderr = await process.communicate()
        finally:
            await _end(process)
        return _understand(command, process.returncode, stdout, stderr)


async def _end(process: Process) -> None:
    """Ends a command that is still running, with all that it started. The next one goes on from
    wherever it was."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _understand(
    command: list[str], exit_code: int | None, stdout: bytes, stderr: bytes
) -> Document:
    """Warnings come before the error, which is the last line, on standard error."""
    lines = stderr.decode(errors="replace").splitlines()
    for line in lines:
        log.warning("%s: %s", " ".join(command), line)
    document: Document | None = json.loads(stdout) if stdout else None
    if exit_code == 0 and document is not None:
        return document
    try:
        error = json.loads(lines[-1])["error"]
        code, message = error["code"], error["message"]
    except (IndexError, KeyError, TypeError, ValueError):
        # It was killed, or is no cyyber at all.
        code, message = "failed", f"{command[0]} ended with {exit_code}"
    raise CyyberError(exit_code or 1, code, message, document)
