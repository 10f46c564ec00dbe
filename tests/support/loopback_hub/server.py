"""The HTTP side: connections, tokens, faults, and the two addresses of a Hub, its own and that of its storage."""

import json
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from .faults import Fault
from .messages import Answer, Request
from .repos import HubError, Repo
from .routes import route


@dataclass(frozen=True)
class Seen:
    """A request that came in, by its query too; `authorization` is the header as sent."""

    method: str
    path: str
    query: str
    authorization: str | None
    storage: bool


@dataclass
class LoopbackHub:
    """A Hub with users, repos and faults, running while it is used as a context manager.

    Attributes:
        users: access token -> user's name; one whose token ends in `read` may not write.
        repos: repo id -> repo.
        faults: what goes wrong next; each is taken out of use by itself.
        seen: all requests so far.
        page_size: entries of a page of a repo's tree.
    """

    users: dict[str, str] = field(default_factory=lambda: {"hf_write": "user", "hf_read": "user", "hf_other": "other"})
    repos: dict[str, Repo] = field(default_factory=dict)
    lfs_objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    page_size: int = 1000

    def __enter__(self) -> Self:
        self.lock = threading.RLock()
        self._servers = [_start(self, storage) for storage in (False, True)]
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage(self) -> str:
        """Where LFS files lie: another host, to which no token may go (older clients compare the hosts alone)."""
        return f"http://localhost:{self._servers[1].server_port}"

    def create(self, repo_id: str, **settings: Any) -> Repo:
        """A new repo, as if its owner had made it."""
        self.repos[repo_id] = Repo(repo_id, **settings)
        return self.repos[repo_id]

    def writes(self) -> list[str]:
        """The paths of the commits that were asked for."""
        return [seen.path for seen in self.seen if seen.method == "POST" and "/commit/" in seen.path]


def _start(hub: LoopbackHub, storage: bool) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub, "storage": storage})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    storage: bool
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        body = self._body()
        authorization = self.headers.get("Authorization")
        with self.hub.lock:
            self.hub.seen.append(Seen(self.command, url.path, url.query, authorization, self.storage))
        fault = next((fault for fault in self.hub.faults if fault.takes(self.command, url.path)), None)
        if fault is not None and fault.close:
            self.close_connection = True
            return
        try:
            if fault is not None and fault.status:
                raise HubError(fault.status, "the loopback Hub was told to fail")
            query = dict(urllib.parse.parse_qsl(url.query))
            headers = {name.lower(): value for name, value in self.headers.items()}
            may_write = not (authorization or "").endswith("read")
            user = self._user(authorization)
            request = Request(self.command, url.path, query, headers, body, user, self.storage, may_write)
            with self.hub.lock:
                answer = route(self.hub, request)
        except HubError as error:
            answer = _failure(error)
        if fault is not None and fault.lose_answer:
            self.close_connection = True
            return
        self._send(answer, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _user(self, authorization: str | None) -> str | None:
        if authorization is None:
            return None
        user = self.hub.users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        body = answer.body
        if fault is not None and fault.corrupt and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(body)), **answer.headers, **(fault.headers if fault else {})}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.cut is not None:
            body, self.close_connection = body[: fault.cut], True
        self.wfile.write(body)


def _failure(error: HubError) -> Answer:
    headers = {"X-Error-Message": error.message, "Content-Type": "application/json"}
    if error.code:
        headers["X-Error-Code"] = error.code
    if error.commit:
        headers["X-Repo-Commit"] = error.commit
    return Answer(json.dumps({"error": error.message}).encode(), headers, error.status)
