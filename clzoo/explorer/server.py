"""The explorer from a server on 127.0.0.1: every address begins with a random token, and no request leaves here."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable, Sequence
from functools import lru_cache
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from clzoo.curation.pictures import Pictures, encoder_of
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.explorer.exploring import Exploration, Seen
from clzoo.explorer.graph import MOST_EXACT, NEIGHBORS
from clzoo.explorer.page import built, document, policy
from clzoo.explorer.payload import payload
from clzoo.explorer.thumbnails import encoded
from clzoo.images import decode_image
from clzoo.index.building import open_index
from clzoo.index.choosing import ExactSearch

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger("clzoo")

HOST = "127.0.0.1"
SMALL, LARGE = 128, 640  # pixels of a picture on the map, and of the one that is looked at
MOST_BYTES = 64 << 20  # of a picture that is searched with
_KEPT = 8192  # small pictures in memory, some 4 kB each


def serve(
    view: Exploration, port: int = 0, *, browser: bool = True, announce: Callable[[str], object] = log.info
) -> None:
    """`Exploration.serve`."""
    try:
        import uvicorn
    except ImportError as error:
        raise _missing_extra() from error
    token = secrets.token_urlsafe(16)
    app = make_app(view, token)
    with _bound(port) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
        announce(f"explore at {address}   (Ctrl-C ends it)")
        if browser and _has_screen() and not _opened(address):
            announce("no browser could be started: open that address yourself")
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", server_header=False)
        try:
            _run(uvicorn.Server(config), listening)
        except KeyboardInterrupt:  # how it is meant to end
            log.info("ended")


def _run(server: Any, listening: socket.socket) -> None:
    """Until Ctrl-C, which in a notebook is the kernel's interrupt: there this thread has an event loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        server.run(sockets=[listening])
        return
    thread = Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.5)  # without a time no interrupt comes through on Windows
    finally:
        server.should_exit = True
        thread.join()


def require_server(port: int) -> None:
    """Before the work: raise ClzooError where the extra `[explore]` is not installed, or the port is in use."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise _missing_extra() from error
    _bound(port).close()


def make_app(view: Exploration, token: str) -> Starlette:
    """The application; every address outside of /TOKEN/ is answered 404, every other Host 400."""
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware
        from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
        from starlette.routing import Mount, Route
    except ImportError as error:
        raise _missing_extra() from error
    pictures = Pictures(view.store)
    search = _Search(view)
    page = "".join(document(None, None))
    content = payload(view, server=True).encode()
    headers = {
        "Content-Security-Policy": policy(built("explorer.js"), built("explorer.css"), server=True)
        + "; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }

    @lru_cache(maxsize=_KEPT)
    def small(place: int) -> bytes:
        return encoded(pictures.image(int(view.seen[0].rows[place])), SMALL)

    def the_page(_: Request) -> Response:
        return HTMLResponse(page, headers=headers)

    def collection(_: Request) -> Response:
        return Response(content, media_type="application/json", headers=headers)

    def neighbors(request: Request) -> Response:
        place = request.path_params["place"]
        if place >= len(view):
            return PlainTextResponse("no such image", 404)
        found = [_found(seen.graph.rows[place], seen.graph.similarity[place]) for seen in view.seen]
        return JSONResponse(found, headers=headers)

    def picture(request: Request) -> Response:
        place = request.path_params["place"]
        if place >= len(view):
            return PlainTextResponse("no such image", 404)
        try:
            if request.path_params["size"] == "small":
                image = small(place)
            else:
                image = encoded(pictures.image(int(view.seen[0].rows[place])), LARGE)
        except UnreadableImageError as error:
            return PlainTextResponse(str(error), 404, headers=headers)
        return Response(image, media_type="image/jpeg", headers={**headers, "Cache-Control": "private, max-age=86400"})

    async def search_with(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > MOST_BYTES:
                return PlainTextResponse(f"the picture has more than {MOST_BYTES >> 20} MB", 413)
        try:
            return JSONResponse(await run_in_threadpool(search.nearest, bytes(body)), headers=headers)
        except ClzooError as error:
            return PlainTextResponse(str(error), 422, headers=headers)

    routes = [
        Route("/", the_page),
        Route("/collection", collection),
        Route("/neighbors/{place:int}", neighbors),
        Route("/picture/{size}/{place:int}", picture),
        Route("/search", search_with, methods=["POST"]),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        # Another site that makes its name point here could read everything, if the name were not looked at.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
    )


class _Search:
    """Searches with a picture; the encoders are loaded at the first."""

    def __init__(self, view: Exploration) -> None:
        self._view = view
        self._lock = Lock()
        self._ready: list[tuple[Any, Any]] = []  # an encoder and what searches, of each store

    def nearest(self, image: bytes) -> list[dict[str, Any]]:
        """The neighbors of an encoded image under each encoder.

        Raises:
            ClzooError: it is no image, or a model cannot be loaded.
        """
        if not len(self._view):
            raise ClzooError("there is no image to be found.")
        try:
            decoded = decode_image(image)
        except UnreadableImageError as error:
            raise ClzooError(f"this cannot be searched with: {error}") from error
        with self._lock:  # one network at a time; the page waits for one answer anyway
            if not self._ready:
                given: Sequence[Any] = (self._view.encoder, None)
                self._ready = [
                    (encoder_of(seen.store, where), _searcher(seen))
                    for seen, where in zip(self._view.seen, given, strict=False)
                ]
            found = []
            for (encoder, search), seen in zip(self._ready, self._view.seen, strict=True):
                vector = np.atleast_2d(encoder.embed(decoded)).astype(np.float32)
                vector /= np.linalg.norm(vector, axis=1, keepdims=True)
                scores, ids = search(vector, min(NEIGHBORS, len(seen.rows)))
                place = {int(seen.store.ids[row]): place for place, row in enumerate(seen.rows)}
                near = ids[0] >= 0  # -1: the lists that an index looks at hold fewer
                places = np.array([place[int(one)] for one in ids[0][near]], np.int64)
                found.append(_found(places, np.minimum(scores[0][near], 1)))
        return found


def _searcher(seen: Seen) -> Any:
    if len(seen.rows) > MOST_EXACT:
        return open_index(seen.store).faiss.search
    return ExactSearch(seen.store, seen.rows).search


def _found(places: np.ndarray, similarity: np.ndarray) -> dict[str, Any]:
    return {"places": places.tolist(), "similarity": [round(float(each), 5) for each in similarity]}


def _bound(port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name != "nt":  # there it would let two servers share a port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        raise ClzooError(f"port {port} of {HOST} {reason}. Take a free one: leave --port out, or --port 0") from error
    return listening


def _has_screen() -> bool:
    """Whether a browser would open a window; elsewhere one may take over the terminal."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _opened(address: str) -> bool:
    """Whether a browser took the address."""
    try:
        return webbrowser.open(address)
    except webbrowser.Error:
        return False


def _missing_extra() -> ClzooError:
    return ClzooError(
        'a server needs Starlette and uvicorn. Type: pip install "clzoo[explore]"; or write one file: --html FILE'
    )
