"""The addresses of the Hub that the client calls: accounts, repos, refs and commits."""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import yaml

from .files import lfs_batch, lfs_object, lfs_verify, paths_info, resolve, siblings, tree
from .messages import Answer, Request, authorized, json_answer
from .repos import Blob, HubError, Repo, apply_operations, goes_to_lfs

if TYPE_CHECKING:
    from .server import LoopbackHub

_ROUTES: list[tuple[str, str, Callable[..., Answer]]] = []


def route(hub: "LoopbackHub", request: Request) -> Answer:
    """The answer to a request; HubError 404 for an address that the loopback Hub does not know."""
    for methods, pattern, action in _ROUTES:
        found = re.fullmatch(pattern, request.path)
        if found and request.method in methods.split():
            return action(hub, request, *(unquote(part) for part in found.groups() if part is not None))
    raise HubError(404, f"the loopback Hub has no {request.method} {request.path}")


def whoami(hub: "LoopbackHub", request: Request) -> Answer:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    token = {"displayName": "test", "role": "write" if request.writes else "read"}
    return json_answer(
        {"type": "user", "name": request.user, "orgs": [], "auth": {"type": "access_token", "accessToken": token}}
    )


def create(hub: "LoopbackHub", request: Request) -> Answer:
    asked = request.json()
    owner = asked.get("organization") or request.user
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    if owner != request.user or not request.writes:
        raise HubError(403, f"You don't have the rights to create a model under the namespace {owner!r}")
    repo_id = f"{owner}/{asked['name']}"
    repo = Repo(repo_id, asked.get("visibility") == "private", asked.get("type", "model"))
    answer = {"url": f"{hub.endpoint}/{repo.page}", "name": repo_id}
    if repo_id in hub.repos:
        taken = {**answer, "error": "You already created this model repo"}
        return Answer(json.dumps(taken).encode(), {"Content-Type": "application/json"}, 409)
    hub.repos[repo_id] = repo
    return json_answer(answer)


def delete(hub: "LoopbackHub", request: Request) -> Answer:
    asked = request.json()
    repo_id = f"{asked.get('organization') or request.user}/{asked['name']}"
    authorized(hub, request, repo_id, write=True)
    del hub.repos[repo_id]
    return json_answer({})


def settings(hub: "LoopbackHub", request: Request, repo_id: str) -> Answer:
    repo, asked = authorized(hub, request, repo_id, write=True), request.json()
    if "visibility" in asked or "private" in asked:
        repo.private = asked.get("visibility") == "private" or bool(asked.get("private"))
    repo.gated = bool(asked.get("gated", repo.gated))
    return json_answer({})


def info(hub: "LoopbackHub", request: Request, repo_id: str, revision: str = "main") -> Answer:
    repo = authorized(hub, request, repo_id)
    commit = repo.at(revision)
    card = _metadata(commit.files["README.md"].data.decode()) if "README.md" in commit.files else {}
    tags = card.get("tags") or []
    value = {
        "id": repo_id, "modelId": repo_id, "author": repo_id.split("/")[0], "sha": commit.oid, "private": repo.private,
        "gated": "manual" if repo.gated else False, "siblings": siblings(commit), "cardData": card, "tags": tags,
        "lastModified": "2024-01-01T00:00:00.000Z", "createdAt": "2024-01-01T00:00:00.000Z",
        "library_name": card.get("library_name"), "pipeline_tag": card.get("pipeline_tag"),
    }  # fmt: skip
    return json_answer(value)


def refs(hub: "LoopbackHub", request: Request, repo_id: str) -> Answer:
    repo = authorized(hub, request, repo_id)

    def listed(names: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"{prefix}{name}", "targetCommit": oid} for name, oid in names.items()]

    pulls = {name: oid for name, oid in repo.branches.items() if name.startswith("refs/pr/")}
    branches = {name: oid for name, oid in repo.branches.items() if name not in pulls}
    answer: dict[str, Any] = {"branches": listed(branches, "refs/heads/"), "tags": listed(repo.tags, "refs/tags/")}
    return json_answer({**answer, "converts": [], "pullRequests": listed(pulls, "")})


def commits(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> Answer:
    history = authorized(hub, request, repo_id).history(revision)
    date = "2024-01-01T00:00:00.000Z"
    return json_answer(
        [{"id": one.oid, "title": one.title, "message": "", "authors": [], "date": date} for one in history]
    )


def reference(hub: "LoopbackHub", request: Request, repo_id: str, kind: str, name: str) -> Answer:
    """Making (POST) and deleting a branch by its name, or a tag: there POST's `name` is the revision that gets it."""
    repo, asked = authorized(hub, request, repo_id, write=True), request.json()
    known = repo.branches if kind == "branch" else repo.tags
    if request.method == "DELETE":
        if known.pop(name, None) is None:
            raise HubError(404, f"no {kind} {name!r}", "RevisionNotFound")
        return json_answer({})
    new = name if kind == "branch" else asked["tag"]
    start = asked.get("startingPoint", "main") if kind == "branch" else name
    if new in known:
        raise HubError(409, f"Reference already exists: {new}")
    known[new] = repo.at(start).oid
    return json_answer({})


def validate_yaml(hub: "LoopbackHub", request: Request) -> Answer:
    try:
        data = _metadata(request.json()["content"])
    except (yaml.YAMLError, ValueError) as error:
        body = {"errors": [{"message": str(error)}], "warnings": []}
        return Answer(json.dumps(body).encode(), {"Content-Type": "application/json"}, 400)
    warnings = [] if data else [{"message": "empty or missing yaml metadata in repo card"}]
    return json_answer({"errors": [], "warnings": warnings})


def _metadata(text: str) -> dict[str, Any]:
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    data = yaml.safe_load(found[1]) if found else {}
    if not isinstance(data or {}, dict):
        raise ValueError("the metadata is no mapping")
    return data or {}


def preupload(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> Answer:
    repo = authorized(hub, request, repo_id, write=not request.query.get("create_pr"))
    files, answers = repo.at(revision).files, []
    for file in request.json()["files"]:
        mode = "lfs" if goes_to_lfs(file["path"], file["size"]) else "regular"
        there = files.get(file["path"])
        oid = {"oid": there.etag} if there else {}
        answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **oid})
    return json_answer({"files": answers})


def commit(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> Answer:
    pull_request = bool(request.query.get("create_pr"))
    repo = authorized(hub, request, repo_id, write=not pull_request)
    header, *operations = [json.loads(line) for line in request.body.splitlines()]
    head = repo.at(revision)
    files: dict[str, Blob] = apply_operations(operations, head.files, hub.lfs_objects)
    answer: dict[str, Any] = {"success": True}
    if pull_request:
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        revision = f"refs/pr/{number}"
        repo.branches[revision] = head.oid
        answer["pullRequestUrl"] = f"{hub.endpoint}/{repo_id}/discussions/{number}"
    made = repo.commit(revision, header["value"]["summary"], files, header["value"].get("parentCommit"))
    return json_answer({**answer, "commitOid": made.oid, "commitUrl": f"{hub.endpoint}/{repo.page}/commit/{made.oid}"})


def discussions(hub: "LoopbackHub", request: Request, repo_id: str) -> Answer:
    """None: transformers looks among them for weights that a bot has made of pickles."""
    authorized(hub, request, repo_id)
    return json_answer({"discussions": [], "count": 0, "start": 0})


_ID = r"([^/]+/[^/]+)"
_KINDS = "(?:datasets/|spaces/)?"
_MODEL = rf"/api/(?:models|datasets|spaces)/{_ID}"
_ROUTES += [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/repos/create", create),
    ("DELETE", "/api/repos/delete", delete),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", rf"{_MODEL}(?:/revision/([^/]+))?", info),
    ("PUT", rf"{_MODEL}/settings", settings),
    ("GET", rf"{_MODEL}/discussions", discussions),
    ("GET", rf"{_MODEL}/refs", refs),
    ("GET", rf"{_MODEL}/commits/([^/]+)", commits),
    ("GET", rf"{_MODEL}/tree/([^/]+)(?:/(.+))?", tree),
    ("POST", rf"{_MODEL}/paths-info/([^/]+)", paths_info),
    ("POST DELETE", rf"{_MODEL}/(branch|tag)/([^/]+)", reference),
    ("POST", rf"{_MODEL}/preupload/([^/]+)", preupload),
    ("POST", rf"{_MODEL}/commit/([^/]+)", commit),
    ("POST", rf"/{_KINDS}{_ID}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", rf"/api/lfs-verify/{_ID}", lfs_verify),
    ("GET HEAD PUT", "/lfs/([0-9a-f]{64})", lfs_object),
    ("GET HEAD", rf"/{_KINDS}{_ID}/resolve/([^/]+)/(.+)", resolve),
]
