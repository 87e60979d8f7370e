"""The backend as its tests serve it: everybody is who they say they are.

Never to be served to anybody. In its place a site has its own login, which puts into the session
what `login` does here. A user's id must be one of cyyber's: letters, digits, dots and hyphens, at
most 64 of them.
"""

from fastapi import Request
from fastapi.responses import Response

from app import app


@app.post("/login")
async def login(request: Request, user: str, admin: bool = False) -> Response:
    request.session.clear()
    request.session.update(user=user, admin=admin)
    return Response(status_code=204)
