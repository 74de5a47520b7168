"""A stand-in for Google Cloud Storage: a server of its JSON interface over a folder, as much as TensorStore asks for;
and what programs import at their start (`environment`), so that fsspec finds the same folder and Google's library is
there.

Objects are files of the folder BUCKET. As in the real one, an object is whole or not there.
"""

import functools
import http.server
import json
import os
import pathlib
import threading
import urllib.parse

# What a program runs at its start, as sitecustomize.
STAND_IN = """
import os, sys, types
import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

class Bucket(DirFileSystem):
    protocol = ("gs", "gcs")
    def __init__(self, **settings):
        super().__init__(os.environ["BUCKETS"], LocalFileSystem(auto_mkdir=True))
    def listdir(self, path, detail=True, **more):
        return self.ls(path, detail=detail, **more)
    @classmethod
    def _strip_protocol(cls, path):
        return path.split("://", 1)[-1].strip("/")

for name in Bucket.protocol:
    fsspec.register_implementation(name, Bucket, clobber=True)
storage = types.ModuleType("google.cloud.storage")
storage.Client = lambda: types.SimpleNamespace(get_bucket=lambda name: types.SimpleNamespace(name=name))
import google
cloud = sys.modules.setdefault("google.cloud", types.ModuleType("google.cloud"))
cloud.__path__ = []
cloud.storage = sys.modules["google.cloud.storage"] = storage
google.cloud = cloud
"""


class Bucket(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: pathlib.Path, *arguments):
        self.root = root
        super().__init__(*arguments)

    def log_message(self, *_): ...

    def do_GET(self):
        words, query = self.asked()
        if words[-1] == "o":
            return self.answer(json.dumps({"items": self.listed(query)}).encode())
        path = self.file_of(words[-1])
        if not path.is_file():
            return self.answer(b"{}", 404)
        if "alt" not in query:
            return self.answer(json.dumps(self.about(path)).encode())
        about, content, status = self.about(path), path.read_bytes(), 200
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        headers = {"x-goog-generation": about["generation"]}
        if wanted:
            first, _, last = wanted.partition("-")
            first, last = int(first), min(int(last or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        return self.answer(content, status, headers)

    def do_POST(self):
        _, query = self.asked()
        path = self.file_of(query["name"])
        content = self.rfile.read(int(self.headers["Content-Length"]))
        expected = query.get("ifGenerationMatch")
        if expected is not None and expected != (self.about(path)["generation"] if path.is_file() else "0"):
            return self.answer(b"{}", 412)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{threading.get_ident()}~")
        part.write_bytes(content)
        os.replace(part, path)
        return self.answer(json.dumps(self.about(path)).encode())

    def do_DELETE(self):
        words, _ = self.asked()
        path = self.file_of(words[-1])
        found = path.is_file()
        path.unlink(missing_ok=True)
        return self.answer(b"", 204 if found else 404)

    def asked(self):
        """(the parts of the address, the query)."""
        address = urllib.parse.urlsplit(self.path)
        words = [urllib.parse.unquote(word) for word in address.path.strip("/").split("/")]
        self.bucket = self.root / words[words.index("b") + 1]
        return words, dict(urllib.parse.parse_qsl(address.query))

    def file_of(self, name):
        return self.bucket / name

    def about(self, path):
        found = path.stat()
        name = path.relative_to(self.bucket).as_posix()
        return {"name": name, "generation": str(found.st_mtime_ns), "size": str(found.st_size), "bucket": "b"}

    def listed(self, query):
        paths = (path for path in self.bucket.rglob("*") if path.is_file() and not path.name.endswith("~"))
        found = sorted((self.about(path) for path in paths), key=lambda about: about["name"])
        first, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
        return [about for about in found if first <= about["name"] < end]

    def answer(self, content, status=200, headers=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def start(root: pathlib.Path):
    """A server in a thread: its address."""
    server = http.server.ThreadingHTTPServer(("localhost", 0), functools.partial(Bucket, root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def environment(server, root: pathlib.Path, folder: pathlib.Path) -> dict[str, str]:
    """Variables with which a program takes the server's folder for the buckets of gs://."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(STAND_IN)
    return {
        "PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}",
        "BUCKETS": str(root),
        "TENSORSTORE_GCS_HTTP_URL": f"http://localhost:{server.server_port}",
        "TENSORSTORE_GCS_HTTP_VERSION": "1.1",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
    }
