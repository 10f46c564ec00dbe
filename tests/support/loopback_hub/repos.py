"""Repos as the Hub keeps them: commits that are made whole or not at all, branches, tags, and files as git or LFS."""

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath

# The Hub's own .gitattributes, in short; what is not named goes to LFS from this size on.
LFS_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".pkl",
    ".ckpt",
    ".joblib",
    ".model",
    ".npz",
    ".parquet",
    ".zip",
)
LFS_SIZE = 10 * 2**20
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()


class HubError(Exception):
    """An answer that is no success: `status`, the Hub's `X-Error-Code` (or none) and `X-Error-Message`."""

    def __init__(self, status: int, message: str, code: str = "", commit: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.commit = status, message, code, commit


@dataclass(frozen=True)
class Blob:
    """A file's content; `lfs` where its repo holds a pointer alone."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_oid(self) -> str:
        content = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return text.encode()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    """One state of a repo."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repo.

    Attributes:
        kind: model, dataset or space; no two repos share a name here, whatever they are.
        readers: users who may read a gated repo.
        branches, tags: commit ids by name.
    """

    id: str
    private: bool = False
    kind: str = "model"
    gated: bool = False
    readers: set[str] = field(default_factory=set)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.commits:
            self.branches["main"] = self._add(None, "initial commit", {".gitattributes": Blob(GIT_ATTRIBUTES)}).oid

    @property
    def page(self) -> str:
        """Its address on the Hub."""
        return self.id if self.kind == "model" else f"{self.kind}s/{self.id}"

    def at(self, revision: str = "main") -> Commit:
        """The commit of a branch, tag, pull request or (shortened) commit id; HubError 404 if there is none."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        found = [commit for name, commit in self.commits.items() if len(oid) >= 7 and name.startswith(oid)]
        if not found:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """Path -> content, without .gitattributes."""
        return {path: blob.data for path, blob in self.at(revision).files.items() if path != ".gitattributes"}

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits, last first."""
        commit: Commit | None = self.at(revision)
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return found

    def commit(self, branch: str, title: str, files: dict[str, Blob], parent: str | None = None) -> Commit:
        """Make `files` the new state of a branch; HubError 412 where its head is no longer `parent`."""
        head = self.branches.get(branch)
        if head is None:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        if parent is not None and not head.startswith(parent):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        made = self._add(head, title, files)
        self.branches[branch] = made.oid
        return made

    def _add(self, parent: str | None, title: str, files: dict[str, Blob]) -> Commit:
        content = [self.id, parent, title, len(self.commits), {path: files[path].git_oid for path in sorted(files)}]
        oid = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, dict(files))
        return self.commits[oid]


def goes_to_lfs(path: str, size: int) -> bool:
    """Whether the Hub wants a file through LFS."""
    return PurePosixPath(path).suffix in LFS_SUFFIXES or size >= LFS_SIZE


def apply_operations(operations: list[dict], files: dict[str, Blob], lfs_objects: dict[str, bytes]) -> dict[str, Blob]:
    """The files after the operations of a commit's payload; HubError for one that cannot be carried out."""
    files = dict(files)
    for operation in operations:
        key, value = operation["key"], operation["value"]
        path = value["path"]
        if ".." in PurePosixPath(path).parts or path.startswith("/"):
            raise HubError(400, f"Invalid path {path!r}")
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in lfs_objects:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = Blob(lfs_objects[value["oid"]], lfs=True)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        elif key == "deletedFolder":
            files = {name: blob for name, blob in files.items() if not name.startswith(path.rstrip("/") + "/")}
        else:
            raise HubError(400, f"unknown operation {key!r}")
    return files
