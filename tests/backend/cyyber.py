"""Runs the program `cyyber`: returns the JSON that it answers with, or raises what went wrong.

The only file that starts a process. It knows nothing of HTTP. Needs Python 3.11.
"""

import asyncio
import json
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from typing import Any
from weakref import WeakValueDictionary

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


class Cyyber:
    """The program, run a bounded number of times at once. Raises CyyberError or TimeoutError.

    Reading takes milliseconds and acting up to a minute, so they have bounds of their own. Of one
    user one action runs at a time: a second click finds the work of the first one done, and nobody
    takes the places of everybody by clicking.
    """

    def __init__(self, program: str, at_once: int, timeout: float):
        self._program = program
        self._timeout = timeout
        self._reading = asyncio.Semaphore(at_once)
        self._acting = asyncio.Semaphore(at_once)
        self._turns: WeakValueDictionary[str | None, asyncio.Lock] = WeakValueDictionary()

    async def read(self, user: str | None, *arguments: str) -> Document:
        """Runs a command that changes nothing. For a user, nothing of anyone else exists."""
        async with asyncio.timeout(self._timeout), self._reading:
            return await self._run(user, arguments)

    async def act(self, user: str | None, *arguments: str) -> Document:
        """Runs a command that changes something, when it is this user's turn."""
        turn = self._turns.setdefault(user, asyncio.Lock())
        async with asyncio.timeout(self._timeout), turn, self._acting:
            return await self._run(user, arguments)

    async def _run(self, user: str | None, arguments: tuple[str, ...]) -> Document:
        as_user = [] if user is None else [f"--as-user={user}"]
        command = [self._program, "--output=json", *as_user, *arguments]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                # Ctrl-C on the server must not reach a command in the middle of its work.
                start_new_session=True,
            )
        except ValueError as error:  # a NUL byte, which no argument can hold
            raise CyyberError(2, "usage", f"bad argument: {error}") from error
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
