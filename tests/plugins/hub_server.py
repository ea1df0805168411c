"""The few endpoints of the Hugging Face Hub that an upload asks, on this machine, with what it was given in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from huggingface_hub import ModelCard

ROOT_COMMIT = "0" * 40


class Hub:
    """One repository: branches with their files, and all that was asked."""

    def __init__(self, *, there: bool = False, refuse: int | None = None) -> None:
        self.there = there
        """Whether the repository is there already, and public."""
        self.private = False
        self.refuse = refuse
        """Status that commits get from the second one on."""
        self.branches: dict[str, dict[str, bytes]] = {"main": {}}
        self.stored: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.messages: list[str] = []

    def answer(self, method: str, path: str, body: bytes, base: str) -> tuple[int, Any]:
        path = path.partition("?")[0]
        self.asked.append(f"{method} {path}")
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            self.private = not self.there and json.loads(body).get("visibility") == "private"
            return 200, {"url": f"{base}/me/toy", "name": "me/toy", "id": "1"}
        if path == "/api/validate-yaml":
            licence = ModelCard(json.loads(body)["content"]).data.license
            errors = [] if licence in (None, "apache-2.0") else [{"message": f'"license" cannot be {licence}'}]
            return (400 if errors else 200), {"errors": errors, "warnings": []}
        if parts[:2] == ["api", "models"] and len(parts) == 4:
            return 200, {"id": "me/toy", "private": self.private, "siblings": [], "tags": []}
        if "commits" in parts:
            dates = {"date": "2026-11-26T00:00:00.000Z", "authors": [], "title": "", "message": ""}
            return 200, [{"id": "1" * 40, **dates}, {"id": ROOT_COMMIT, **dates}]
        if "branch" in parts:
            assert json.loads(body) == {"startingPoint": ROOT_COMMIT}, "a branch holds its own files alone"
            self.branches.setdefault(parts[-1], {})
            return 200, {}
        if "preupload" in parts:
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            listed = [
                {"path": file["path"], "uploadMode": mode[file["path"].endswith(".safetensors")], "shouldIgnore": False}
                for file in files
            ]
            return 200, {"files": listed}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {
                    **item,
                    "actions": {"upload": {"href": f"{base}/upload/{item['oid']}", "header": {}}},
                    "authenticated": True,
                }
                for item in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if parts[0] == "upload":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            self.stored[parts[1]] = body
            return 200, {}
        if "commit" in parts:
            if self.refuse is not None and self.messages:
                return self.refuse, {"error": "You don't have the rights"}
            self._commit(self.branches[parts[-1]], [json.loads(line) for line in body.splitlines()])
            return 200, {"commitUrl": f"{base}/me/toy/commit/{'2' * 40}", "commitOid": "2" * 40, "success": True}
        return 404, {"error": f"nothing at {path}"}

    def _commit(self, files: dict[str, bytes], lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.stored[value["oid"]]


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Serve the repository on loopback; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.tokens.add(self.headers.get("Authorization", ""))
            status, answer = hub.answer(self.command, self.path, body, base)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815  http.server's own names

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    base = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield base
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
