"""One bucket in memory behind the part of Google's storage protocol (JSON, v1) that is spoken here.

Objects have generations, and requests are held to the conditions that they name: Orbax writes its
databases under them.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

PLACE = re.compile(r"(?:/download)?/storage/v1/b/[^/]+(?P<objects>/o)?(?:/(?P<name>.+))?")
UPLOAD = re.compile(r"/upload/storage/v1/b/[^/]+/o")


class Object(NamedTuple):
    generation: int
    data: bytes
    made: str


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status, self.why = status, why


@contextlib.contextmanager
def serve(bucket: str) -> Iterator[str]:
    """The address of a server of one empty bucket, until the block ends."""
    server = Server(("localhost", 0), Handler)
    server.bucket, server.objects, server.begun, server.written = bucket, {}, {}, 0
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Server(ThreadingHTTPServer):
    """request_queue_size: connections that wait, as many are opened at a time."""

    daemon_threads, request_queue_size = True, 1024
    bucket: str
    objects: dict[str, Object]
    begun: dict[str, tuple[dict[str, str], bytearray]]
    written: int

    def __init__(self, *args):
        super().__init__(*args)
        self.one = threading.Lock()

    def handle_error(self, request, client_address):
        """A client that no longer listens is no fault."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # an answer is one packet, and does not wait
    server: Server

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        try:
            with self.server.one:
                status, headers, data = self.answer(url.path, dict(parse_qsl(url.query)), body)
        except RefusedError as refused:
            error = {"error": {"code": refused.status, "message": refused.why}}
            status, headers, data = refused.status, {}, json.dumps(error).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = handle_one

    def log_message(self, format, *args):
        pass

    # ------------------------------------------------------------------------ what is asked
    def answer(self, path: str, asked: dict[str, str], body: bytes):
        if self.command in ("POST", "PUT") and UPLOAD.fullmatch(path):
            return self.more(asked, body) if "upload_id" in asked else self.upload(asked, body)
        place = PLACE.fullmatch(path)
        if place is None or self.command not in ("GET", "DELETE"):
            raise RefusedError(501, f"{self.command} {path} is not spoken here")
        if not place["objects"]:
            return said({"kind": "storage#bucket", "name": self.server.bucket})
        if place["name"] is None:
            return self.listed(asked)
        name = unquote(place["name"])
        found = self.server.objects.get(name)
        if self.command == "GET" and asked.get("ifGenerationNotMatch") == str(generation(found)):
            return 304, {}, b""
        check(found, asked)
        if found is None:
            raise RefusedError(404, f"No such object: {name}")
        if self.command == "DELETE":
            del self.server.objects[name]
            return 204, {}, b""
        if asked.get("alt") == "media":
            return self.media(found)
        return said(self.described(name, found))

    def upload(self, asked: dict[str, str], body: bytes):
        if asked["uploadType"] == "media":
            name, data = asked["name"], body
        elif asked["uploadType"] == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            _, about, content, _ = body.split(b"--" + boundary, 3)
            name = json.loads(re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1])["name"]
            data = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
            data = re.sub(rb"\r?\n\Z", b"", data)
        elif asked["uploadType"] == "resumable":
            number = str(len(self.server.begun))
            self.server.begun[number] = (asked, bytearray())
            own = f"http://localhost:{self.server.server_port}"
            path = f"/upload/storage/v1/b/{self.server.bucket}/o?upload_id={number}"
            return 200, {"Location": own + path}, b""
        else:
            raise RefusedError(501, f"uploads of type {asked['uploadType']} are not spoken here")
        return self.written(name, data, asked)

    def more(self, asked: dict[str, str], body: bytes):
        """Another part of a resumable upload, which ends where its whole size is named."""
        begun, data = self.server.begun[asked["upload_id"]]
        data += body
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total != str(len(data)):
            return 308, {"Range": f"bytes=0-{len(data) - 1}"}, b""
        return self.written(begun["name"], bytes(data), begun)

    def written(self, name: str, data: bytes, asked: dict[str, str]):
        check(self.server.objects.get(name), asked)
        self.server.written += 1
        now = datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")
        self.server.objects[name] = Object(self.server.written, data, now)
        return said(self.described(name, self.server.objects[name]))

    def listed(self, asked: dict[str, str]):
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.server.objects):
            inside = asked.get("startOffset", "") <= name < asked.get("endOffset", "\U0010ffff")
            if not (name.startswith(prefix) and inside):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.described(name, self.server.objects[name]))
        return said({"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)})

    def media(self, found: Object):
        headers = {"x-goog-generation": str(found.generation), "Content-Type": "application/x"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return 200, headers, found.data
        size = len(found.data)
        first = int(wanted[1]) if wanted[1] else max(size - int(wanted[2]), 0)
        last = min(int(wanted[2]) if wanted[1] and wanted[2] else size - 1, size - 1)
        if first > last:
            raise RefusedError(416, f"bytes {first} to {last} of {size}")
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return 206, headers, found.data[first : last + 1]

    def described(self, name: str, found: Object):
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": self.server.bucket,
            "generation": str(found.generation),
            "metageneration": "1",
            "size": str(len(found.data)),
            "md5Hash": base64.b64encode(hashlib.md5(found.data).digest()).decode(),
            "contentType": "application/octet-stream",
            "timeCreated": found.made,
            "updated": found.made,
        }


def generation(found: Object | None) -> int:
    return 0 if found is None else found.generation


def check(found: Object | None, asked: dict[str, str]) -> None:
    if asked.get("ifGenerationMatch", str(generation(found))) != str(generation(found)):
        raise RefusedError(412, "a condition of the request is not met")


def said(value):
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
