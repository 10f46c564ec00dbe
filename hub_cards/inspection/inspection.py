"""A look at a repo before anything of it is loaded: nothing is run, and nothing is written to disk."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import filter_repo_objects
from tqdm.auto import tqdm

from ..transfer.commits import head_of
from .code_checks import MAX_CODE, check_code
from .config_checks import MAX_CONFIG, check_config, check_index, is_config
from .file_checks import BYPRODUCTS, HEAD, check_content, check_path, leaves_folder
from .findings import REFUSED, WARNING, Finding, printable
from .safetensors_headers import Shapes, read_shapes
from .size_checks import check_sizes
from .sources import Entry, FolderSource, HubSource, Source

# What `pull` takes.
FETCHED = ("*.safetensors", "*.json", "*.py", "*.jinja", "*.txt", "*.model", "*.md", "LICENSE*", "*.png", "*.svg")
Read = Callable[[int, int], bytes]  # (start, length)
_REQUESTS = 8  # at once
_FIRST = 65_536  # bytes of a file that the first request asks for: most files as a whole, most weights' headers


@dataclass
class Inspection:
    """What a repo holds, and what there is to say against it.

    Attributes:
        where: the repo or folder, for people; `commit`: of a repo on the Hub.
        files: all files; `notes`: what some of them are, in a few words.
        findings: the refusals first.
        harmful: files that are not what a repo may hold at all, by their path or content, code and settings aside.
    """

    where: str
    commit: str | None
    files: list[Entry]
    notes: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    harmful: list[str] = field(default_factory=list)

    @property
    def refusals(self) -> list[Finding]:
        """What makes the repo unsafe to load."""
        return [finding for finding in self.findings if finding.level == REFUSED]

    def text(self) -> str:
        """A line for each file and for each finding, and what to make of them."""
        lines = [f"{self.where}{f', commit {self.commit}' if self.commit else ''}"]
        for file in self.files:
            lines.append(f"{file.size:>15,}  {printable(file.name)}  {self.notes.get(file.name, '')}".rstrip())
        lines += map(str, self.findings)
        refused, warned = len(self.refusals), len(self.findings) - len(self.refusals)
        return "\n".join([*lines, f"{len(self.files)} files, {refused} refused, {warned} to judge for yourself"])


def inspect(
    repo: str | Path, revision: str | None = None, *, token: str | bool | None = None, show_progress: bool = True
) -> Inspection:
    """Look at a folder or a Hub repo, without loading, running or storing anything of it.

    Refused are pickles, known by name or by their first bytes, and programs; paths and links that leave the folder;
    code that is neither this Lookback's nor that of a release, letter for letter; configurations that name code of
    another repo or ask for more than the weights hold; safetensors whose header is broken or does not fit the file.

    Args:
        repo: folder, or `user/name`.
        revision: branch, tag or commit of a Hub repo.
        token: access token; default the one that is logged in.

    Raises ValueError for a revision of a folder.
    """
    if Path(repo).is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} is for a Hub repo; {str(repo)!r} is a folder.")
        return look_at(FolderSource(repo), show_progress)
    info = head_of(HfApi(token=token), str(repo), revision)
    return look_at(HubSource(info, token), show_progress)


def look_at(source: Source, show_progress: bool = True) -> Inspection:
    """The same for a repo that is known where it lies."""
    entries = source.entries()
    found = Inspection(source.where, source.commit, entries)
    names = [entry.name for entry in entries]
    kept = set(filter_repo_objects(names, ignore_patterns=list(BYPRODUCTS)))
    fetched = set(filter_repo_objects(kept, allow_patterns=list(FETCHED)))
    findings = [finding for entry in entries for finding in check_path(entry)]
    found.harmful = [finding.file for finding in findings]
    safe = [entry for entry in entries if entry.target is None and not leaves_folder(entry.name)]
    looks = [_Look(entry, entry.name in kept, entry.name in fetched) for entry in safe]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        done = pool.map(partial(_look, source), looks)
        bar = tqdm(done, total=len(looks), desc="Inspecting", unit="file", delay=1.0, disable=not show_progress)
        findings += [finding for look in bar for finding in look.findings]
    found.harmful += [look.entry.name for look in looks if look.harmful]
    found.notes = {look.entry.name: look.note for look in looks if look.note}
    findings += _check_together(looks)
    found.findings = sorted(findings, key=lambda finding: (finding.level != REFUSED, finding.file))
    return found


@dataclass
class _Look:
    """One file, and what was found in it; `kept` and `fetched` say whether it belongs to the model, and is pulled."""

    entry: Entry
    kept: bool
    fetched: bool
    note: str = ""
    harmful: bool = False
    findings: list[Finding] = field(default_factory=list)
    config: Any = None
    shapes: Shapes | None = None


def _look(source: Source, look: _Look) -> _Look:
    name, size = look.entry.name, look.entry.size
    first = source.read(name, 0, min(_FIRST, size)) if size else b""

    def read(start: int, length: int) -> bytes:
        if start + length <= len(first) or len(first) == size:
            return first[start : start + length]
        return source.read(name, start, length)

    look.findings += check_content(name, first[:HEAD], look.kept)
    look.harmful = bool(look.findings)
    if not look.kept and name.endswith(".py") and not look.harmful:
        look.findings.append(Finding(WARNING, name, "code that is not looked at, and left behind by pull."))
    if look.harmful or not look.kept:
        return look
    if name.endswith(".safetensors"):
        _look_at_weights(read, look)
    elif name.endswith(".py"):
        _look_at_code(read, look)
    elif is_config(name):
        _look_at_config(read, look)
    if not look.fetched:
        look.note = "left behind by pull"
    return look


def _look_at_weights(read: Read, look: _Look) -> None:
    try:
        look.shapes = read_shapes(read, look.entry.size)
        look.note = f"{len(look.shapes):,} tensors"
    except ValueError as error:
        look.findings.append(Finding(REFUSED, look.entry.name, f"{error}."))


def _look_at_code(read: Read, look: _Look) -> None:
    name, size = look.entry.name, look.entry.size
    if size > MAX_CODE:
        look.findings.append(Finding(REFUSED, name, f"code of {size:,} bytes, which nobody reads."))
        return
    look.note, findings = check_code(name, read(0, size))
    look.findings += findings


def _look_at_config(read: Read, look: _Look) -> None:
    name, size = look.entry.name, look.entry.size
    if size > MAX_CONFIG:
        look.findings.append(Finding(REFUSED, name, f"a configuration of {size:,} bytes: none is that large."))
        return
    try:
        look.config = json.loads(read(0, size))
        look.findings += check_config(name, look.config)
    except (ValueError, RecursionError) as error:
        look.findings.append(Finding(REFUSED, name, f"no JSON that can be read ({error})."))


def _check_together(looks: list[_Look]) -> list[Finding]:
    """What only several files together show."""
    shards = {look.entry.name: look.shapes for look in looks if look.shapes is not None}
    sizes = {look.entry.name: look.entry.size for look in looks}
    findings: list[Finding] = []
    for look in looks:
        name = look.entry.name
        if name.endswith(".safetensors.index.json") and look.config is not None:
            findings += check_index(name, look.config, shards, sizes)
        if PurePosixPath(name).name == "config.json" and isinstance(look.config, dict) and "model_type" in look.config:
            findings += check_sizes(name, look.config, _weights_beside(name, shards))
    return findings


def _weights_beside(config: str, shards: dict[str, Shapes]) -> Shapes | None:
    """The tensors in the folder of a configuration; None where they are an adapter's."""
    folder = PurePosixPath(config).parent
    beside = {name: shapes for name, shapes in shards.items() if PurePosixPath(name).parent == folder}
    if any(PurePosixPath(name).name.startswith("adapter_model") for name in beside):
        return None
    return {tensor: shape for shapes in beside.values() for tensor, shape in shapes.items()}
