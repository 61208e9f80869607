"""Stands for the model registry of Unity Catalog on loopback, as MLflow's own client for it asks:
models, versions, aliases, tags, and files by presigned addresses. It records every call.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

REGISTRY = "/api/2.0/mlflow/unity-catalog"
TOKEN = "of-a-test"


@dataclass
class UnityCatalog:
    """What is stored, and ``calls``: method and path of each, with the registry's prefix cut.
    ``listener`` is told them with the names of what was sent.
    """

    address: str = ""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    listener: Callable[[str], None] = lambda told: None

    def answer(self, method: str, path: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """The JSON that a call is answered with; None where there is no such thing."""
        if path.startswith("/api/2.0/fs/create-"):
            return {"url": f"{self.address}/blob{quote(asked['path'])}", "headers": []}
        if path.startswith("/api/2.0/fs/directories"):
            return self._listed(unquote(path.removeprefix("/api/2.0/fs/directories")))
        act = (method, path.removeprefix(REGISTRY))
        if act[1].startswith("/registered-models:is-databricks-sdk"):
            return {"is_databricks_sdk_models_artifact_repository_enabled": False}
        if act == ("POST", "/registered-models/create"):
            tags = {tag["key"]: tag["value"] for tag in asked.get("tags", ())}
            self.models[asked["name"]] = {"tags": tags, "versions": {}, "aliases": {}}
            return {"registered_model": self._model(asked["name"])}
        if (model := self.models.get(asked.get("name", ""))) is None:
            return None
        if act == ("GET", "/registered-models/get"):
            return {"registered_model": self._model(asked["name"])}
        if act == ("POST", "/registered-models/set-tag"):
            model["tags"][asked["key"]] = asked["value"]
            return {}
        if act == ("POST", "/registered-models/alias"):
            model["aliases"][asked["alias"]] = asked["version"]
            return {}
        if act == ("GET", "/registered-models/alias"):
            version = model["aliases"].get(asked["alias"])
            return {"model_version": model["versions"][version]} if version else None
        if act == ("POST", "/model-versions/create"):
            version = str(len(model["versions"]) + 1)
            model["versions"][version] = {
                "name": asked["name"],
                "version": version,
                "run_id": asked.get("run_id", ""),
                "status": "PENDING_REGISTRATION",
                "tags": asked.get("tags", []),
                "storage_location": "s3://managed",
            }
            return {"model_version": model["versions"][version]}
        stored = model["versions"].get(str(asked.get("version", "")))
        if stored is None:
            return None
        if act == ("POST", "/model-versions/generate-temporary-credentials"):
            return {"credentials": {"storage_mode": "DEFAULT_STORAGE"}}
        if act == ("POST", "/model-versions/finalize"):
            stored["status"] = "READY"
        if act == ("POST", "/model-versions/set-tag"):
            kept = [tag for tag in stored["tags"] if tag["key"] != asked["key"]]
            stored["tags"] = [*kept, {"key": asked["key"], "value": asked["value"]}]
        return {"model_version": stored}

    def _model(self, name: str) -> dict[str, Any]:
        model = self.models[name]
        return {
            "name": name,
            "tags": [{"key": key, "value": value} for key, value in model["tags"].items()],
            "aliases": [
                {"alias": alias, "version": version} for alias, version in model["aliases"].items()
            ],
        }

    def _listed(self, folder: str) -> dict[str, Any] | None:
        below = f"{folder.rstrip('/')}/"
        found: dict[str, dict[str, Any]] = {}
        for path, content in self.files.items():
            if path.startswith(below):
                name, _, rest = path.removeprefix(below).partition("/")
                entry = {"path": below + name, "is_directory": bool(rest)}
                found[name] = entry | ({} if rest else {"file_size": len(content)})
        return {"contents": list(found.values())} if found else None


@contextlib.contextmanager
def unity_catalog() -> Iterator[UnityCatalog]:
    """Serve until the end of the block."""
    catalog = UnityCatalog()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            place = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if place.path.startswith("/blob"):
                self._blob(unquote(place.path.removeprefix("/blob")), body)
                return
            if not place.path.startswith("/api/"):
                self._send(200, b"")
                return
            catalog.tokens.add(str(self.headers.get("Authorization")))
            told, is_listed, _ = place.path.removeprefix(REGISTRY).partition("/fs/directories")
            told += is_listed
            catalog.calls.append(f"{self.command} {told}")
            asked = {key: values[0] for key, values in parse_qs(place.query).items()}
            asked |= json.loads(body) if body else {}
            catalog.listener(f"{self.command} {told} ({', '.join(sorted(asked))})")
            answer = catalog.answer(self.command, place.path, asked)
            if answer is None:
                code = "NOT_FOUND" if "/fs/" in place.path else "RESOURCE_DOES_NOT_EXIST"
                self._send(404, json.dumps({"error_code": code, "message": "not there"}).encode())
            else:
                self._send(200, json.dumps(answer).encode())

        def _blob(self, path: str, body: bytes) -> None:
            if self.command == "PUT":
                catalog.files[path] = body
                self._send(200, b"")
            else:
                content = catalog.files.get(path)
                self._send(404 if content is None else 200, content or b"")

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """The calls are recorded instead."""

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    catalog.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield catalog
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
