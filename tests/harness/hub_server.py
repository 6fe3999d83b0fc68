"""A loopback stand-in for the Hugging Face hub: enough of its HTTP API for huggingface_hub, datasets and transformers.

    with Hub(root) as hub:
        os.environ["HF_ENDPOINT"] = hub.url          # before the libraries are imported
        hub.fail(r"GET .*model\\.safetensors", times=1, cut_at=100_000)

`root/models/OWNER/NAME/REVISION/...` and `root/datasets/...` hold the files; a revision is a branch or tag name with `/`
written as `%2F`. Every revision is one commit, whose hash follows from its content; so a changed file is a new commit, and the
old one is gone. A file `hub.json` in a repository's folder may say `{"gated": true}`, `{"private": true}`, or
`{"moved_to": "OWNER/NAME"}`.
Tokens: `hf_reader` may read everything, any other token nothing that is gated or private.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

READER = "Bearer hf_reader"
LFS = (".safetensors", ".bin", ".parquet", ".h5", ".msgpack", ".onnx", ".model", ".ot")
_API = re.compile(r"^/api/(models|datasets)/([^/]+(?:/[^/]+)?)(?:/(revision|tree|paths-info|refs)(?:/(.*))?)?$")
_FILE = re.compile(r"^/(datasets/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)$")
_SMALL = re.compile(r"^/api/resolve-cache/(models|datasets)/([^/]+(?:/[^/]+)?)/([0-9a-f]{40})/(.+)$")


@dataclass
class Fault:
    """What goes wrong with requests whose "METHOD path" matches."""

    match: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut_at: int | None = None
    """Close the connection after so many bytes of the body."""
    rate: int | None = None
    """Bytes a second."""


class Refused(Exception):
    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Hub:
    """Serves `root` on a port of this machine until the context ends."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.root = root
        self.faults: list[Fault] = []
        self.requests: list[dict] = []
        """Method, path, status, client and time of every request."""
        self._lock = threading.Lock()
        hub = self

        class Bound(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Bound)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}/cdn"  # another origin, as the real one

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, match: str, **how: object) -> None:
        """The next `times` requests that match fail so."""
        self.faults.append(Fault(match, **how))  # type: ignore[arg-type]

    def fault(self, line: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, line):
                    fault.times -= 1
                    return fault
        return None

    def repository(self, kind: str, name: str, token: str | None) -> Path:
        """Its folder. Refused as the hub refuses: a missing repository looks like a private one to a stranger."""
        folder = self.root / kind / name
        about = _about(folder)
        if not folder.is_dir() or (about.get("private") and token != READER):
            # the real one sends no code with 401: its client guesses it from the https address
            raise Refused(401 if token is None else 404, "RepoNotFound", "Repository not found")
        return folder

    def commit(self, folder: Path, revision: str) -> tuple[Path, str]:
        """Folder of the revision's files, and its commit."""
        for one in sorted(folder.iterdir()):
            if one.is_dir() and (unquote(one.name) == revision or _commit(one) == revision):
                return one, _commit(one)
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: Hub

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._fault = hub.fault(f"{self.command} {self.path}") or Fault("")
        self._record = {"time": time.time(), "method": self.command, "path": self.path, "agent": self.headers["User-Agent"]}
        hub.requests.append(self._record)
        time.sleep(self._fault.delay)
        if self._fault.status is not None:
            self._send(self._fault.status, b"", self._fault.headers)
            return
        try:
            self._route(body)
        except Refused as refused:
            code = {"X-Error-Code": refused.code} if refused.code else {}
            self._json({"error": refused.message}, refused.status, {**code, "X-Error-Message": refused.message})

    def _route(self, body: bytes) -> None:
        hub, split = self.server_hub, urlsplit(self.path)
        path = unquote(split.path)
        token = self.headers.get("Authorization")
        if path.startswith("/cdn/"):
            self._file(hub.root / path.removeprefix("/cdn/"))
        elif found := _SMALL.match(path):
            kind, name, revision, file = found.groups()
            where, sha = hub.commit(hub.repository(kind, name, token), revision)
            self._file(where / file, {"X-Repo-Commit": sha})
        elif found := _FILE.match(split.path):
            kind, name, revision, file = found.groups()
            self._resolve("datasets" if kind else "models", unquote(name), unquote(revision), unquote(file), token)
        elif found := _API.match(split.path):
            kind, name, what, rest = found.groups()
            self._api(kind, unquote(name), what, rest, parse_qs(split.query), body, token)
        else:
            raise Refused(404, None, f"no such page: {path}")

    def _moved(self, kind: str, name: str) -> bool:
        if new := _about(self.server_hub.root / kind / name).get("moved_to"):
            self._send(307, b"", {"Location": self.path.replace(quote(name), new, 1)})
        return bool(new)

    def _api(
        self, kind: str, name: str, what: str | None, rest: str | None, query: dict, body: bytes, token: str | None
    ) -> None:
        hub = self.server_hub
        if self._moved(kind, name):
            return
        folder = hub.repository(kind, name, token)
        if what == "refs":
            refs = [
                {"name": unquote(one.name), "ref": f"refs/heads/{unquote(one.name)}", "targetCommit": _commit(one)}
                for one in sorted(folder.iterdir())
                if one.is_dir()
            ]
            self._json({"branches": refs, "tags": [], "converts": [], "pullRequests": []})
            return
        revision, _, inside = (rest or "main").partition("/")
        where, sha = hub.commit(folder, unquote(revision))
        inside = unquote(inside)
        entries = _entries(where)
        if what == "tree":
            if inside and not (where / inside).is_dir():
                raise Refused(404, "EntryNotFound", f"{inside} does not exist on {revision}")
            below = [e for e in entries if e["path"].startswith(f"{inside}/" if inside else "")]
            if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
                depth = len(inside.split("/")) + 1 if inside else 1
                below = [e for e in below if e["path"].count("/") + 1 == depth]
            self._json(below)
        elif what == "paths-info":
            given = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
            wanted = [path.rstrip("/") for path in given["paths"]]
            self._json([entry for entry in entries if entry["path"] in wanted])
        else:
            about = _about(folder)
            files = [{"rfilename": e["path"]} for e in entries if e["type"] == "file"]
            self._json(
                {
                    "_id": sha[:24],
                    "id": name,
                    "modelId": name,
                    "author": name.split("/")[0],
                    "sha": sha,
                    "private": False,
                    "gated": "auto" if about.get("gated") else False,
                    "disabled": False,
                    "downloads": 1,
                    "likes": 0,
                    "tags": [],
                    "lastModified": "2024-01-30T07:41:18.000Z",
                    "createdAt": "2022-03-02T23:29:22.000Z",
                    "siblings": files,
                }
            )

    def _resolve(self, kind: str, name: str, revision: str, file: str, token: str | None) -> None:
        hub = self.server_hub
        if self._moved(kind, name):
            return
        folder = hub.repository(kind, name, token)
        where, sha = hub.commit(folder, revision)
        if _about(folder).get("gated") and token != READER:
            what = (
                "be authenticated to access it. Please log in."
                if token is None
                else "be in the authorized list. Visit its page."
            )
            raise Refused(
                401 if token is None else 403, "GatedRepo", f"Access to {kind[:-1]} {name} is restricted. You must {what}"
            )
        target = where / file
        if not target.is_file():
            raise Refused(404, "EntryNotFound", "Entry not found")
        linked = {"X-Repo-Commit": sha, "X-Linked-Size": str(target.stat().st_size), "X-Linked-ETag": f'"{_etag(target)}"'}
        if target.suffix in LFS:
            self._send(302, b"", {**linked, "Location": f"{hub.cdn}/{quote(str(target.relative_to(hub.root)))}?signature=1"})
        else:
            self._send(307, b"", {**linked, "Location": f"/api/resolve-cache/{kind}/{name}/{sha}/{quote(file)}"})

    def _file(self, file: Path, headers: dict[str, str] | None = None) -> None:
        if not file.is_file():
            raise Refused(404, "EntryNotFound", "Entry not found")
        content, status, more = file.read_bytes(), 200, dict(headers or {})
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            more["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(status, content, {"ETag": f'"{_etag(file)}"', "Accept-Ranges": "bytes", **more})

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        fault = self._fault
        self._record["status"] = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            sent = content if fault.cut_at is None else content[: fault.cut_at]
            step = max(1, (fault.rate or len(sent) * 10) // 10)
            for start in range(0, len(sent), step):
                self.wfile.write(sent[start : start + step])
                if fault.rate:
                    time.sleep(0.1)
        except OSError:  # the client has gone
            self.close_connection = True
        if fault.cut_at is not None:
            self.wfile.flush()
            self.close_connection = True


def _about(folder: Path) -> dict:
    file = folder / "hub.json"
    return json.loads(file.read_text()) if file.is_file() else {}


def _entries(where: Path) -> list[dict]:
    found = []
    for path in sorted(where.rglob("*")):
        entry = {
            "type": "directory" if path.is_dir() else "file",
            "oid": "0" * 40,
            "size": 0,
            "path": path.relative_to(where).as_posix(),
        }
        if path.is_file():
            size = path.stat().st_size
            entry |= {"size": size, "oid": _etag(path)[:40]}
            if path.suffix in LFS:
                entry["lfs"] = {"oid": _etag(path), "size": size, "pointerSize": 134}
        found.append(entry)
    return found


def _commit(where: Path) -> str:
    content = [(path.relative_to(where).as_posix(), _etag(path)) for path in sorted(where.rglob("*")) if path.is_file()]
    return hashlib.sha1(json.dumps([where.parent.as_posix(), content]).encode()).hexdigest()


def _etag(file: Path) -> str:
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns)


@cache
def _digest(file: Path, size: int, _: int) -> str:
    """As git and LFS would: sha256 of a large file, blob hash of a small one."""
    content = file.read_bytes()
    if file.suffix in LFS:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
