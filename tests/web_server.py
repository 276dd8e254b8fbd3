"""A web server on loopback for tests: files and pages of links, from memory, with or without ranges, with faults."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WebServer:
    """`files`: path -> content.

    Attributes:
        ranges: whether parts of files are sent when they are asked for.
        asked: (path, "Range" header or None) of every GET.
        sent: bytes of files sent so far.
        fail: so many of the next GETs of files are answered 500.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []
        self.sent = 0
        self.fail = 0
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def _answer(self, body: bool) -> None:
                content = web.files.get(self.path)
                wanted = self.headers.get("Range")
                if body:
                    web.asked.append((self.path, wanted))
                if self.path.endswith("/"):
                    self._send(200, web.page(self.path), body, {"Content-Type": "text/html"})
                elif content is None:
                    self._send(404, b"", body, {})
                elif body and web.fail:
                    web.fail -= 1
                    self._send(500, b"", body, {})
                else:
                    facts = {"ETag": f'"{hash(content)}"'}
                    status = 200
                    if wanted and web.ranges:
                        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups()  # type: ignore[union-attr]
                        facts["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                        content, status = content[int(first) : int(last) + 1], 206
                    self._send(status, content, body, facts)

            def _send(self, status: int, content: bytes, body: bool, facts: dict[str, str]) -> None:
                self.send_response(status)
                for key, value in {"Content-Length": str(len(content)), **facts}.items():
                    self.send_header(key, value)
                self.end_headers()
                if body:
                    try:
                        self.wfile.write(content)
                        web.sent += len(content)
                    except OSError:  # the client has heard enough
                        self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def page(self, folder: str) -> bytes:
        """Links to what lies in a folder."""
        below = [path.removeprefix(folder) for path in self.files if path.startswith(folder)]
        names = {name.partition("/")[0] + ("/" if "/" in name else "") for name in below}
        return "".join(f'<a href="{name}">{name}</a>\n' for name in sorted(names)).encode()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
