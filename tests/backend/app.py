"""A web backend for students' lab VMs: the endpoints, and which answer of `cyyber` becomes what.

Every answer is the JSON of one `cyyber` command. Who asks is known from the session alone: no
request can name a user. How a session comes about is the site's own; see trusting.py for what it
has to put there.
"""

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.sessions import SessionMiddleware

from cyyber import Cyyber, CyyberError, Document, TooManyError

# What an exit code of cyyber becomes.
STATUS = {
    1: 500,  # failed
    2: 400,  # usage: a bad id
    3: 500,  # config
    4: 404,  # not_found
    5: 409,  # conflict
    6: 423,  # busy
    7: 507,  # capacity
    8: 503,  # unavailable
}
RETRY_AFTER = {423: "5", 429: "5", 503: "30", 504: "30", 507: "60"}

# What ids look like. Nothing else is handed to a program.
LAB_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
USER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}")

# What is said in the place of cyyber's own words, which tell of paths and of the host. Those are in
# the server's log.
IN_OTHER_WORDS = {
    404: "there is no such lab, or you have no VM of it",
    500: "the lab server has a problem",
    503: "the lab server has a problem: try again later",
    504: "this takes longer than it should: try again later",
    507: "the lab server is full: try again later",
}

# What a student need not know of the server: its paths, as fields of their own and within sentences.
HIDDEN_FIELDS = {"disk_path", "base_image"}
ADDRESSES = {"console_path", "console_url"}
PATH = re.compile(r"(?<![\w.])(?:/[\w.@+~-]+)+/?")

# Where browsers find cyyber's gateway, as wss://labs.example.org; without it they go to each VM's port.
GATEWAY = os.environ.get("BACKEND_GATEWAY", "")

# A page loads nothing from other hosts, and stands in no frame of theirs. Consoles have own ports.
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self' ws: wss:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'"
)

cyyber = Cyyber(
    program=os.environ.get("BACKEND_CYYBER", "cyyber"),
    at_once=int(os.environ.get("BACKEND_AT_ONCE", "4")),
    # Of one user; a page has one or two under way.
    waiting=int(os.environ.get("BACKEND_WAITING", "20")),
    # More than the longest wait of cyyber itself: 45 s for another command, then its own work.
    timeout=float(os.environ.get("BACKEND_TIMEOUT", "120")),
)
# Without the pages that FastAPI adds: they describe all endpoints to anybody, with scripts from
# another host.
app = FastAPI(title="Labs", openapi_url=None)
app.add_middleware(
    SessionMiddleware,
    # Taken out, so that the programs we start do not have it.
    secret_key=os.environ.pop("BACKEND_SECRET"),
    max_age=8 * 60 * 60,
    # The cookie travels encrypted, or to this very machine, and not with what other sites post.
    https_only=True,
    same_site="lax",
)


class Refused(Exception):
    """Nothing that cyyber would have to be asked for."""

    def __init__(self, status: int, code: str, message: str):
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@app.middleware("http")
async def own_pages_only(request: Request, call_next: Any) -> Response:
    """Other sites' pages change nothing here: browsers send the page's origin with each change."""
    if request.method not in {"GET", "HEAD"} and not from_own_page(request):
        return failure(403, "forbidden", "this was not asked for by a page of this site")
    response: Response = await call_next(request)
    response.headers["Content-Security-Policy"] = CONTENT_POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def from_own_page(request: Request) -> bool:
    """Whether the page that sends this came from here. A web server in front passes on `Host`."""
    return urlsplit(request.headers.get("origin", "")).netloc == request.headers.get("host")


def session_user(request: Request) -> str:
    """The user who has logged in."""
    user = request.session.get("user")
    if not isinstance(user, str):
        raise Refused(401, "unauthenticated", "log in first")
    return checked(user, USER_ID, "user")


def session_admin(request: Request) -> str:
    """The same, who must be an administrator."""
    user = session_user(request)
    if request.session.get("admin") is not True:
        raise Refused(403, "forbidden", "only administrators may do this")
    return user


def checked(id: str, pattern: re.Pattern[str], what: str) -> str:
    if pattern.fullmatch(id) is None:
        raise Refused(400, "usage", f"bad {what} id: allowed is {pattern.pattern}")
    return id


def named_lab(lab_id: str) -> str:
    """The lab in the address."""
    return checked(lab_id, LAB_ID, "lab")


LAB = Depends(named_lab)
USER = Depends(session_user)


# "--" ends the options: a lab called "--force" is a bad id and nothing else.


@app.post("/vm/start/{lab_id}")
async def start(lab_id: str = LAB, user: str = USER) -> Response:
    """Makes, powers on or brings back the user's VM, whatever it takes."""
    return answer(await cyyber.act(user, "instance", "start", "--", lab_id, user))


@app.post("/vm/connect/{lab_id}")
async def connect(lab_id: str = LAB, user: str = USER) -> Response:
    """A way to the screen through the gateway, for one connection, which wakes the VM."""
    if not GATEWAY:
        raise Refused(404, "not_found", "there is no gateway")
    found = await cyyber.act(user, "instance", "console", "--path-only", "--", lab_id, user)
    return answer(found | {"console_url": GATEWAY + found["console_path"]})


@app.post("/vm/stop/{lab_id}")
async def stop(lab_id: str = LAB, force: bool = False, user: str = USER) -> Response:
    """Shuts it down; with `force` as if the plug were pulled."""
    options = ["--force"] if force else []
    return answer(await cyyber.act(user, "instance", "stop", *options, "--", lab_id, user))


@app.post("/vm/pause/{lab_id}")
async def pause(lab_id: str = LAB, user: str = USER) -> Response:
    """Saves its memory to disk."""
    return answer(await cyyber.act(user, "instance", "pause", "--", lab_id, user))


@app.post("/vm/resume/{lab_id}")
async def resume(lab_id: str = LAB, user: str = USER) -> Response:
    """Brings it back from a pause. One that is off stays off."""
    return answer(await cyyber.act(user, "instance", "resume", "--", lab_id, user))


@app.get("/vm/status/{lab_id}")
async def status(lab_id: str = LAB, user: str = USER) -> Response:
    """The state of the user's VM, and why it is in it."""
    options = [f"--lab={lab_id}", f"--user={user}"]
    found = await cyyber.read(user, "instance", "list", *options)
    if not found["instances"]:
        raise Refused(404, "not_found", IN_OTHER_WORDS[404])
    return answer(found["instances"][0])


@app.get("/vm/stats/{lab_id}")
async def stats(lab_id: str = LAB, user: str = USER) -> Response:
    """What it uses."""
    return answer(await cyyber.read(user, "instance", "stats", "--", lab_id, user))


@app.get("/vm/list")
async def list_all(user: str = USER) -> Response:
    """All VMs of the user."""
    return answer(await cyyber.read(user, "instance", "list", f"--user={user}"))


@app.delete("/vm/cleanup", dependencies=[Depends(session_admin)])
async def cleanup(
    inactive_for: str = "24h", lab_id: str | None = None, dry_run: bool = False
) -> Response:
    """Destroys everybody's VMs that were not used for so long, with their disks."""
    options = [f"--inactive-for={inactive_for}", "--dry-run" if dry_run else "--yes"]
    if lab_id is not None:
        options.append(f"--lab={named_lab(lab_id)}")
    return answer(await cyyber.act(None, "instance", "cleanup", *options))


@app.get("/vm/console/{lab_id}")
async def console(request: Request, lab_id: str, user: str = USER) -> Response:
    """For a web server in front: where the screen is that this user may see. nginx takes nothing
    but 401 and 403 for a no."""
    if "origin" in request.headers and not from_own_page(request):
        raise Refused(403, "forbidden", "this was not asked for by a page of this site")
    found = await cyyber.read(user, "instance", "list", f"--user={user}")
    for instance in found["instances"]:
        if instance["lab_id"] == lab_id and instance["novnc_port"] is not None:
            host = instance["vnc_host"]
            address = f"{f'[{host}]' if ':' in host else host}:{instance['novnc_port']}"
            return Response(status_code=204, headers={"X-Console": address})
    raise Refused(403, "forbidden", "you have no VM of this lab that runs")


@app.get("/lab/{lab_id}", dependencies=[USER])
async def page(lab_id: str = LAB) -> Response:
    """The page with the screen of the user's VM."""
    text = Path(__file__).with_name("console.html").read_text()
    if GATEWAY:
        text = text.replace('<html lang="en">', '<html lang="en" data-gateway>')
    return HTMLResponse(text)


app.mount("/novnc", StaticFiles(directory=os.environ.get("BACKEND_NOVNC", "/usr/share/novnc")))


def answer(document: Document, status: int = 200) -> Response:
    # There are passwords in it.
    headers = {"Cache-Control": "no-store"}
    if status in RETRY_AFTER:
        headers["Retry-After"] = RETRY_AFTER[status]
    return JSONResponse(without_paths(document), status_code=status, headers=headers)


def without_paths(value: Any) -> Any:
    """The same without the server's paths."""
    match value:
        case dict():
            shown = {k: v for k, v in value.items() if k not in HIDDEN_FIELDS}
            return {k: v if k in ADDRESSES else without_paths(v) for k, v in shown.items()}
        case list():
            return [without_paths(item) for item in value]
        case str():
            return PATH.sub("…", value)
    return value


def failure(status: int, code: str, message: str) -> Response:
    return answer({"error": {"code": code, "message": message}}, status)


@app.exception_handler(CyyberError)
async def on_error(_: Request, error: CyyberError) -> Response:
    if error.report is not None:
        # Some went well, some did not: the report says which.
        return answer(error.report, 207)
    status = STATUS.get(error.exit_code, 500)
    return failure(status, error.code, IN_OTHER_WORDS.get(status, error.message))


@app.exception_handler(TooManyError)
async def on_too_many(_: Request, __: TooManyError) -> Response:
    return failure(429, "too_many", "too many requests at once: wait for the answers")


@app.exception_handler(TimeoutError)
async def on_timeout(_: Request, __: TimeoutError) -> Response:
    return failure(504, "timeout", IN_OTHER_WORDS[504])


@app.exception_handler(Refused)
async def on_refusal(_: Request, refused: Refused) -> Response:
    return failure(refused.status, refused.code, refused.message)
