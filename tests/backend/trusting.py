"""The backend as its tests serve it: everybody is who they say they are.

Never to be served to anybody. In its place a site has its own login, which puts into the session
what `login` does here. A user's id must be one of cyyber's: letters, digits, dots and hyphens, at
most 64 of them.
"""

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from app import app


@app.post("/login")
async def login(request: Request, user: str, admin: bool = False) -> Response:
    request.session.clear()
    request.session.update(user=user, admin=admin)
    return Response(status_code=204)


@app.get("/login")
async def login_by_address(request: Request, user: str, lab: str) -> Response:
    """To try it in a browser, where nothing else can be typed than an address."""
    request.session.clear()
    request.session.update(user=user, admin=False)
    return RedirectResponse(f"/lab/{lab}", status_code=303)
