"""Reading and storing files: resolve, trees, and LFS."""

import hashlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from .messages import Answer, Request, authorized, json_answer
from .repos import Blob, Commit, HubError

if TYPE_CHECKING:
    from .server import LoopbackHub


def resolve(hub: "LoopbackHub", request: Request, repo_id: str, revision: str, path: str) -> Answer:
    """A file; one in LFS by way of the storage's own address, as with the Hub's CDN."""
    repo = authorized(hub, request, repo_id, read=True)
    commit = repo.at(revision)
    blob = commit.files.get(path)
    if blob is None:
        raise HubError(404, "Entry not found", "EntryNotFound", commit.oid)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
    if not blob.lfs:
        return ranged(request, blob.data, headers)
    linked = {"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))}
    return Answer(b"", {**headers, **linked, "Location": f"{hub.storage}/lfs/{blob.sha256}"}, 302)


def ranged(request: Request, data: bytes, headers: dict[str, str]) -> Answer:
    """All of `data`, or the range that was asked for."""
    asked = request.headers.get("range", "")
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
    if not found:
        return Answer(data, headers)
    start, end = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
    if start >= len(data):
        return Answer(b"", {**headers, "Content-Range": f"bytes */{len(data)}"}, 416)
    return Answer(data[start : end + 1], {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, 206)


def tree(hub: "LoopbackHub", request: Request, repo_id: str, revision: str, path: str = "") -> Answer:
    """A page of the files (and folders) in a folder."""
    commit = authorized(hub, request, repo_id).at(revision)
    inside = f"{path}/" if path else ""
    if path and not any(name.startswith(inside) for name in commit.files):
        raise HubError(404, f'"{path}" does not exist on "{revision}"', "EntryNotFound", commit.oid)
    recursive = request.query.get("recursive", "").lower() in ("true", "1")
    entries = {}
    for name, blob in sorted(commit.files.items()):
        if not name.startswith(inside):
            continue
        folders = name.removeprefix(inside).split("/")[:-1]
        for depth in range(len(folders)):
            folder = inside + "/".join(folders[: depth + 1])
            entries[folder] = {"type": "directory", "path": folder, "oid": hashlib.sha1(folder.encode()).hexdigest()}
            if not recursive:
                break
        if recursive or not folders:
            entries[name] = _entry(name, blob)
    start = int(request.query.get("cursor", 0))
    page = list(entries.values())[start : start + hub.page_size]
    answer = json_answer(page, X_Repo_Commit=commit.oid)
    if start + hub.page_size < len(entries):
        following = f"{hub.endpoint}{request.path}?recursive={recursive}&cursor={start + hub.page_size}"
        answer.headers["Link"] = f'<{following}>; rel="next"'
    return answer


def paths_info(hub: "LoopbackHub", request: Request, repo_id: str, revision: str) -> Answer:
    """The entries of the paths in a form; those that do not exist are left out."""
    commit = authorized(hub, request, repo_id).at(revision)
    paths = parse_qs(request.body.decode()).get("paths", [])
    return json_answer([_entry(path, commit.files[path]) for path in paths if path in commit.files])


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.git_oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    return entry


def siblings(commit: Commit) -> list[dict[str, Any]]:
    """The files as model_info lists them with files_metadata."""
    found = []
    for path, blob in sorted(commit.files.items()):
        entry = {"rfilename": path, "size": len(blob.data), "blobId": blob.git_oid}
        if blob.lfs:
            entry["lfs"] = {"sha256": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
        found.append(entry)
    return found


def lfs_batch(hub: "LoopbackHub", request: Request, repo_id: str) -> Answer:
    """Where to put each object of an upload; nowhere for one that is there."""
    authorized(hub, request, repo_id, write=True)
    objects = []
    for wanted in request.json()["objects"]:
        answer = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in hub.lfs_objects:
            verify = {"href": f"{hub.endpoint}/api/lfs-verify/{repo_id}"}
            answer["actions"] = {"upload": {"href": f"{hub.storage}/lfs/{wanted['oid']}"}, "verify": verify}
        objects.append(answer)
    return json_answer({"transfer": "basic", "objects": objects})


def lfs_object(hub: "LoopbackHub", request: Request, oid: str) -> Answer:
    """The storage's own address: takes an object whose content is what its name says, and gives it."""
    if "authorization" in request.headers:
        raise HubError(400, "a token was sent to the storage")
    if request.method != "PUT":
        if oid not in hub.lfs_objects:
            raise HubError(404, "no such object")
        return ranged(request, hub.lfs_objects[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(400, "the content is not what its checksum says")
    hub.lfs_objects[oid] = request.body
    return Answer()


def lfs_verify(hub: "LoopbackHub", request: Request, repo_id: str) -> Answer:
    """Whether an object has arrived as a whole."""
    authorized(hub, request, repo_id, write=True)
    wanted = request.json()
    if len(hub.lfs_objects.get(wanted["oid"], b"")) != wanted["size"]:
        raise HubError(404, "the object is not there")
    return json_answer({"message": "ok"})
