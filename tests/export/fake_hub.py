"""A Hub that speaks as much of the protocol as uploads and downloads need, in place of the network."""

import base64
import hashlib
import importlib
import json
import re
from typing import Any

from huggingface_hub.errors import HfHubHTTPError

HTTP: Any = importlib.import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])  # the Hub's HTTP library
TOKEN = "hf_writes"
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/([^/]+)")


class FakeHub:
    """Models by name, each of files by branch; `requests` are those it got."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.fault = ""
        self.requests: list[str] = []
        self.messages: list[str] = []

    def client(self) -> Any:
        """A client of the Hub's HTTP library whose requests come here."""
        return HTTP.Client(transport=HTTP.MockTransport(self.answer), follow_redirects=True)

    def answer(self, request: Any) -> Any:
        path = request.url.path
        self.requests.append(f"{request.method} {path}")
        may_write = request.headers.get("authorization") == f"Bearer {TOKEN}"
        if self.fault == "connection":
            raise HTTP.ConnectError("connection refused", request=request)
        if match := RESOLVE.match(path):
            return self._file(*match.groups(), may_write=may_write)
        if request.method == "GET":
            return HTTP.Response(404, json={"error": "not found"})
        if not may_write:
            return HTTP.Response(401, json={"error": "Invalid username or password."})
        if path == "/api/repos/create":
            return self._create(json.loads(request.content))
        if path == "/api/validate-yaml":
            return HTTP.Response(200, json={"errors": [], "warnings": []})
        match = API.match(path)
        assert match is not None, path
        return self._upload(*match.groups(), request.content)

    def _file(self, repo: str, revision: str, file: str, *, may_write: bool) -> Any:
        def refuse(status: int, code: str) -> Any:
            headers = {"X-Error-Code": code, "X-Error-Message": "refused", "X-Repo-Commit": "0" * 40}
            return HTTP.Response(status, headers=headers)

        branches = self.models.get(repo)
        if self.fault == "server":
            return HTTP.Response(501)
        if branches is None or (repo in self.private and not may_write):
            return refuse(401, "RepoNotFound")
        if repo in self.gated:
            return refuse(403, "GatedRepo")
        if revision not in branches:
            return refuse(404, "RevisionNotFound")
        if file not in branches[revision]:
            return refuse(404, "EntryNotFound")
        content, commit = branches[revision][file], hashlib.sha1(revision.encode()).hexdigest()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit}
        return HTTP.Response(200, headers=headers, content=content)

    def _create(self, wish: dict[str, Any]) -> Any:
        name = f"{wish['organization']}/{wish['name']}"
        url = {"url": f"https://huggingface.co/{name}"}
        if wish["organization"] != "me":
            return HTTP.Response(403, json={"error": "You don't have the rights"})
        if name in self.models:
            return HTTP.Response(409, json={"error": "You already created this model repo", **url})
        self.models[name] = {"main": {}}
        if wish.get("private") or wish.get("visibility") == "private":
            self.private.add(name)
        return HTTP.Response(200, json=url)

    def _upload(self, repo: str, step: str, revision: str, content: bytes) -> Any:
        if step == "preupload":
            knobs = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": file["path"], **knobs} for file in json.loads(content)["files"]]
            return HTTP.Response(200, json={"files": files})
        branch = self.models[repo].setdefault(revision, {})
        for line in map(json.loads, content.splitlines()):
            if line["key"] == "file":
                branch[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            else:
                self.messages.append(line["value"]["summary"])
        commit = {"commitUrl": f"https://huggingface.co/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40}
        return HTTP.Response(200, json={"success": True, "pullRequestUrl": None, **commit})
