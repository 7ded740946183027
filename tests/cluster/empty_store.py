"""An object store with every bucket and no object: what a first run finds."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LISTING = b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'


class _Answer(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        is_bucket = "/" not in self.path.strip("/")
        self.send_response(200 if is_bucket else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:  # what lies in a bucket, which a folder is told by
        self.send_response(200)
        self.send_header("Content-Length", str(len(LISTING)))
        self.end_headers()
        self.wfile.write(LISTING)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def empty_store() -> Iterator[str]:
    """Its address, for S3's protocol."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
