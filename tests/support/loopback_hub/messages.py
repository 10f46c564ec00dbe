"""Requests and answers, and who may do what."""

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .repos import HubError, Repo

if TYPE_CHECKING:
    from .server import LoopbackHub


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        headers: their names in lower case.
        user: None without a token.
        writes: False with a token that may only read.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    user: str | None
    storage: bool
    writes: bool

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200


def json_answer(value: Any, **headers: str) -> Answer:
    """`value` as JSON; header names with `_` for `-`."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(json.dumps(value).encode(), {"Content-Type": "application/json", **named})


def authorized(hub: "LoopbackHub", request: Request, repo_id: str, write: bool = False, read: bool = False) -> Repo:
    """The repo, if the user may see it (`write`: commit to it, `read`: read its files); HubError as the Hub's if not.

    The Hub does not say of a private repo that it exists; it answers 401 to who is not logged in, 404 to others.
    """
    repo = hub.repos.get(repo_id)
    owner = repo_id.split("/")[0]
    if repo is None or (repo.private and request.user != owner):
        if request.user is None:
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        raise HubError(404, "Repository not found", "RepoNotFound")
    if write and request.user is None:
        raise HubError(401, "Invalid username or password.")
    if write and not (request.user == owner and request.writes):
        raise HubError(403, "Forbidden: you must have write access to this repo")
    if read and repo.gated and request.user != owner and request.user not in repo.readers:
        status = 401 if request.user is None else 403
        raise HubError(status, f"Access to model {repo_id} is restricted.", "GatedRepo")
    return repo
