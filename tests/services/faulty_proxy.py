"""A proxy before a server that goes wrong at one request and from then on: dead, slow, out of order, or silent on what was done."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("dead", "lost answer", "out of order", "slow")


class FaultyProxy:
    """Forwards requests to a port of this machine; request number `at` (from 0 on) and all later ones meet `fault`.

    `dead` closes the connection unread, `lost answer` lets the server do what is asked and then closes it, `out of order` answers 503, and
    `slow` answers nothing until the proxy is closed.
    """

    def __init__(self, port: int) -> None:
        self.upstream, self.requests, self.fault, self.at = port, 0, "", 0
        self._closed, self._counting = threading.Event(), threading.Lock()

    def break_at(self, request: int, fault: str) -> None:
        self.requests, self.fault, self.at = 0, fault, request

    def mend(self) -> None:
        """From now on all is well."""
        self.fault = ""

    @contextmanager
    def listening(self) -> Iterator[str]:
        """The address of the proxy."""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with proxy._counting:
                    fault = proxy.fault if proxy.requests >= proxy.at else ""
                    proxy.requests += 1
                if fault == "slow":
                    proxy._closed.wait()
                if fault in ("dead", "slow"):
                    self.close_connection = True
                    return
                if fault == "out of order":
                    self.answer(503, b"out of order", "text/plain")
                    return
                connection = http.client.HTTPConnection("127.0.0.1", proxy.upstream, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                if fault == "lost answer":
                    self.close_connection = True
                    return
                self.answer(answer.status, content, answer.headers.get("Content-Type", ""))

            def answer(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

            def log_message(self, *_: object) -> None:
                pass

        listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        listener.daemon_threads = True
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_port}"
        finally:
            self._closed.set()
            listener.shutdown()
            listener.server_close()
