"""A Hub on the loopback interface that speaks as much of the protocol as uploads and downloads need."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_writes"
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<step>preupload|commit)/(?P<revision>[^/]+)")


class FakeHub(ThreadingHTTPServer):
    """Models by name, each of files by branch; `requests` are those it got."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.broken = False
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.address = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _refuse(self, status: int, code: str, **headers: str) -> None:
        self._answer(status, X_Error_Code=code, X_Error_Message="refused", **headers)

    def _json(self, value: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        match = RESOLVE.match(self.path)
        if match is None:
            self._json({"error": "not found"}, 404)
            return
        repo, revision, file = match.groups()
        branches = self.server.models.get(repo)
        if self.server.broken:
            self._answer(501)
        elif branches is None or (repo in self.server.private and not self._may_write()):
            self._refuse(401, "RepoNotFound")
        elif repo in self.server.gated:
            self._refuse(403, "GatedRepo")
        elif revision not in branches:
            self._refuse(404, "RevisionNotFound")
        elif file not in branches[revision]:
            self._refuse(404, "EntryNotFound", X_Repo_Commit="0" * 40)
        else:
            content = branches[revision][file]
            etag = hashlib.sha256(content).hexdigest()
            self._answer(200, content, ETag=f'"{etag}"', X_Repo_Commit=hashlib.sha1(revision.encode()).hexdigest())

    def do_POST(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._may_write():
            self._json({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        else:
            self._upload(body)

    def _create(self, request: dict[str, Any]) -> None:
        name = f"{request['organization']}/{request['name']}"
        if request["organization"] != "me":
            self._json({"error": "You don't have the rights"}, 403)
        elif name in self.server.models:
            self._json({"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}, 409)
        else:
            self.server.models[name] = {"main": {}}
            if request.get("private") or request.get("visibility") == "private":
                self.server.private.add(name)
            self._json({"url": f"{self.server.address}/{name}"})

    def _upload(self, body: bytes) -> None:
        match = API.match(self.path)
        assert match is not None, self.path
        if match["step"] == "preupload":
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
            return
        branch = self.server.models[match["repo"]].setdefault(match["revision"], {})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                branch[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            else:
                self.server.messages.append(line["value"]["summary"])
        commit = f"{self.server.address}/{match['repo']}/commit/{'1' * 40}"
        self._json({"success": True, "commitUrl": commit, "commitOid": "1" * 40, "pullRequestUrl": None})
