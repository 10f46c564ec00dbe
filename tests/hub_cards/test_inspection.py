"""`lookback pull --inspect`, and the same checks in `pull`: each thing that is refused, in folders and over HTTP."""

import json
import os
import pickle
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig
from safetensors.torch import save_file

from hub_cards import inspect, pull
from hub_cards.inspection.code_checks import packaged_code
from hub_cards.inspection.config_checks import OUR_MODULE
from hub_cards.inspection.file_checks import hidden_pickle
from hub_cards.inspection.safetensors_headers import read_shapes
from modeling_biencoder import sentence_transformers_biencoder
from tests.support import FIXTURES
from tests.support.families import build
from tests.support.loopback_hub import LoopbackHub
from tests.support.loopback_hub.fixtures import commit
from tests.support.loopback_hub.repos import Blob
from trainers import cli

# Folder -> the release whose code it holds.
RELEASES = {"format_1": "0.1.0", "format_1_flat": "0.1.0+2026.11"}


class Evil:
    def __reduce__(self):
        return os.system, ("echo ran",)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "srlm"
    build("srlm").save_pretrained(folder, max_shard_size="40KB")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "repo"))


def publish(hub: LoopbackHub, folder: Path, **more: bytes) -> None:
    """The folder as `user/repo`, as if nobody had looked at it."""
    commit(hub, "user/repo", folder)
    repo = hub.repos["user/repo"]
    repo.commit("main", "by a program", {**repo.at().files, **{name: Blob(data) for name, data in more.items()}})


def edit(file: Path, **changes: object) -> None:
    settings = json.loads(file.read_text())
    for keys, value in changes.items():
        *way, last = keys.split("__")
        part = settings
        for key in way:
            part = part[key]
        part[last] = value
    file.write_text(json.dumps(settings))


def test_our_own_repos_are_clean(folder):
    found = inspect(folder)
    assert found.findings == [] and found.harmful == []
    names = {entry.name for entry in found.files}
    assert {"model-00001-of-00007.safetensors", "retriever_tokenizer/tokenizer.json"} <= names
    assert found.notes["modeling_srlm.py"] == "Lookback's code, as in this version"
    known = {"Lookback's code, as in this version"}
    for state, release in RELEASES.items():
        known.add(f"Lookback's code, as in {release}")  # a file may be as in an earlier one still
        for family in ("biencoder", "llara", "srlm"):
            found = inspect(FIXTURES / state / family)
            assert found.findings == []
            code = {note for name, note in found.notes.items() if name.endswith(".py")}
            assert code <= known
    with pytest.raises(ValueError, match="revision='main' is for a Hub repo"):
        inspect(folder, "main")


def as_torch_archive(file: Path) -> None:
    torch.save({"a": torch.ones(2)}, file)


PICKLES = {
    "pytorch_model.bin": lambda file: file.write_bytes(b"x"),
    "deep/weights.PT": lambda file: file.write_bytes(b"x"),
    "extra.txt": lambda file: file.write_bytes(pickle.dumps(Evil())),
    "late.txt": lambda file: file.write_bytes(pickle.dumps([list(range(2000)), Evil()])),  # named far behind the start
    "old.txt": lambda file: file.write_bytes(pickle.dumps(Evil(), protocol=0)),
    "old list.txt": lambda file: file.write_bytes(pickle.dumps([1, Evil()], protocol=1)),
    "old dictionary.txt": lambda file: file.write_bytes(pickle.dumps({"a": Evil()}, protocol=1)),
    "vocab.json": as_torch_archive,
    "arrays.npz": lambda file: np.savez(file, a=np.array([Evil()], dtype=object)),
    "script": lambda file: file.write_text("#!/bin/sh\ntrue\n"),
    "mach": lambda file: file.write_bytes(b"\xcf\xfa\xed\xfe" + bytes(64)),
    "array.npy": lambda file: np.save(file, np.array([{}], dtype=object), allow_pickle=True),
    "model.so": lambda file: file.write_bytes(b"x"),
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", PICKLES)
def test_pickles_and_programs_are_refused_by_name_and_by_content(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    PICKLES[name](folder / name)
    [finding] = inspect(folder).findings
    assert (finding.level, finding.file) == ("refused", name)


def test_plain_files_are_no_pickles_and_what_a_training_leaves_is_a_warning(folder):
    assert not hidden_pickle(b"cat\ndog\nmouse\n") and not hidden_pickle(b"(see below)\n") and not hidden_pickle(b"")
    np.save(folder / "numbers.npy", np.ones(3))
    np.savez(folder / "numbers.npz", Order=np.ones(3), other=np.array(["O"]))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    torch.save({}, folder / "training_args.bin")
    (folder / "_hidden.py").write_text("print('mine')\n")
    found = inspect(folder)
    assert {finding.file: finding.level for finding in found.findings} == {
        "training_args.bin": "warning", "_hidden.py": "warning",
    }  # fmt: skip
    assert not found.refusals


def test_paths_and_links_that_leave_the_folder(folder, hub, tmp_path):
    (tmp_path / "secret.txt").write_text("x")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "elsewhere").symlink_to(tmp_path)
    (folder / "inside.md").symlink_to(folder / "README.md")
    found = inspect(folder)
    assert {finding.file for finding in found.refusals} == {"notes.txt", "elsewhere"}
    for name in ("notes.txt", "elsewhere", "inside.md"):
        (folder / name).unlink()
    evil = {"../../escaped.json": b"{}", "/etc/escaped.json": b"{}", "C:\\a.json": b"{}", "a\x1b[2K.json": b"{}"}
    publish(hub, folder, **evil)
    found = inspect("user/repo")
    assert {finding.file for finding in found.refusals} == set(evil) == set(found.harmful)
    assert "\x1b" not in found.text()


def test_code_of_others_is_refused_and_the_change_is_shown(folder, hub):
    code = folder / "pooling_biencoder.py"
    changed = (folder / "bm25_srlm.py").read_text().replace("import", "import os\nimport", 1)
    (folder / "bm25_srlm.py").write_text(changed)
    code.write_text("print('mine')\n")
    (folder / "tool.py").write_text("print('mine')\n")
    found = inspect(folder)
    refused = {finding.file: finding.message for finding in found.refusals}
    assert set(refused) == {"bm25_srlm.py", "pooling_biencoder.py", "tool.py"}
    assert "+1 -0 lines" in refused["bm25_srlm.py"] and "+import os" in refused["bm25_srlm.py"]
    assert "not Lookback's" in refused["tool.py"]
    publish(hub, folder)
    over_http = inspect("user/repo")
    assert over_http.findings == found.findings and over_http.commit == hub.repos["user/repo"].at().oid
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*"))  # nothing was stored


def test_the_packaged_code_is_what_is_saved(folder):
    for name in ("modeling_srlm.py", "repository_srlm.py", "format_srlm.py"):
        assert packaged_code()[name] == (folder / name).read_bytes()


SETTINGS = {
    "code of another repo": ("config.json", {"auto_map__AutoConfig": "other/repo--e.C"}, "'other/repo', would"),
    "a nested one": ("config.json", {"text_config__auto_map": {"AutoModel": "o/r--e.M"}}, "text_config.auto_map"),
    "a tokenizer's": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["o/r--t.T", None]}}, "'o/r', would"),
    "a module elsewhere": ("config.json", {"auto_map__AutoConfig": "../evil.Config"}, "module of this repo"),
    "a kernel": ("config.json", {"text_config__attn_implementation": "other/kernel@v1:f"}, "'other/kernel@v1', would"),
    "kernels by part": ("config.json", {"_attn_implementation": {"text_config": "other/kernel"}}, "'other/kernel', w"),
    "a file elsewhere": ("tokenizer_config.json", {"vocab_file": "../../vocab.txt"}, "leaves the repo's folder"),
    "a huge width": ("config.json", {"text_config__hidden_size": 10**6}, "hidden_size is 1,000,000"),
    "a huge vocabulary": ("config.json", {"text_config__vocab_size": 10**8}, "vocab_size is 100,000,000"),
    "many layers": ("config.json", {"text_config__num_hidden_layers": 100}, "number of layers of the weights is 2"),
    "a huge retriever": ("config.json", {"retriever_config__intermediate_size": 10**5}, "retriever_config.inter"),
    "positions": ("config.json", {"text_config__max_position_embeddings": 10**10}, "no model has that size"),
    "many keys": ("config.json", {"key_num": 10**6}, "key_num is 1,000,000"),
    "more than the shards hold": ("model.safetensors.index.json", {"metadata__total_size": 10**9}, "declares 1,000,"),
    "a shard elsewhere": ("model.safetensors.index.json", {"weight_map__x": "../x.safetensors"}, "leaves the repo's"),
    "a missing tensor": (
        "model.safetensors.index.json", {"weight_map__x": "model-00001-of-00007.safetensors"}, "1 tensors of",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_reach_out_or_exceed_the_weights_are_refused(folder, case):
    file, changes, said = SETTINGS[case]
    edit(folder / file, **changes)
    refusals = inspect(folder).refusals
    assert {finding.file for finding in refusals} == {file}
    assert any(said in finding.message for finding in refusals), refusals


def test_json_that_cannot_be_read_and_modules_of_others(folder):
    (folder / "config.json").write_text("{")
    (folder / "generation_config.json").write_text("[" * 100_000)
    (folder / "modules.json").write_text(json.dumps([{"type": "evil.Module", "path": "../x"}]))
    refused = inspect(folder).refusals
    assert [finding.file for finding in refused] == ["config.json", "generation_config.json", *["modules.json"] * 2]


def test_the_module_of_a_biencoder_is_ours(folder):
    assert OUR_MODULE == sentence_transformers_biencoder.OUR_MODULE
    for kind, refused in ((OUR_MODULE, False), (OUR_MODULE + "s", True), (f"x.{OUR_MODULE}", True)):
        (folder / "modules.json").write_text(json.dumps([{"type": kind, "path": ""}]))
        assert any(finding.file == "modules.json" for finding in inspect(folder).refusals) == refused, kind


def header(entries: dict, data: int = 0) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def tensor(shape: list, begin: int, end: int, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = {
    "short": (b"\x01", "no safetensors file"),
    "longer than the file": (struct.pack("<Q", 10**12) + b"{}", "no safetensors file"),
    "no JSON": (header(b"{"), "no JSON"),
    "a name twice": (header(b'{"a": 1, "a": 2}'), "stands twice"),
    "a list": (header(b"[]"), "no JSON object"),
    "no type": (header({"a": {"dtype": "F31", "shape": [], "data_offsets": [0, 4]}}, 4), "no known type"),
    "a negative width": (header({"a": tensor([-1], 0, 4)}, 4), "does not fill"),
    "too small a place": (header({"a": tensor([10**9], 0, 4)}, 4), "does not fill"),
    "overlap": (header({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, 8), "overlap"),
    "a hole": (header({"a": tensor([1], 0, 4), "b": tensor([1], 8, 12)}, 12), "leave a hole at byte 4"),
    "a place twice, by a name": (
        header(b'{"a": %b, "a": %b}' % ((json.dumps(tensor([1], 0, 4)).encode(),) * 2), 4),
        "twice",
    ),
    "a width that is no number": (header({"a": tensor([True], 0, 4)}, 4), "does not fill"),
    "truncated": (header({"a": tensor([2], 0, 8)}, 4), "truncated"),
    "more behind": (header({"a": tensor([1], 0, 4)}, 8), "belong to nothing"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_safetensors_are_refused(folder, case):
    data, said = BROKEN[case]
    (folder / "extra.safetensors").write_bytes(data)
    [finding] = inspect(folder).refusals
    assert finding.file == "extra.safetensors" and said in finding.message


def test_headers_are_read_as_safetensors_writes_them(tmp_path):
    tensors = {f"layer.{i}.{'x' * 500}": torch.zeros(i, 3, dtype=torch.bfloat16) for i in range(200)}
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    data = (tmp_path / "m.safetensors").read_bytes()
    shapes = read_shapes(lambda start, size: data[start : start + size], len(data))
    assert shapes == {name: tuple(value.shape) for name, value in tensors.items()}


def test_an_adapter_names_its_base_and_loads_nothing_else(tmp_path):
    model = build("biencoder")
    model.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["q_proj"]))
    model.save_pretrained(tmp_path)
    assert inspect(tmp_path).findings == []
    edit(tmp_path / "adapter_config.json", base_model_name_or_path="user/base")
    [finding] = inspect(tmp_path).findings
    assert finding.level == "warning" and "no commit" in finding.message
    edit(tmp_path / "adapter_config.json", revision="abc", auto_mapping={"parent_library": "os"})
    first, second = inspect(tmp_path).findings
    assert (first.level, second.level) == ("refused", "warning")
    assert "pull --inspect user/base --revision abc" in second.message


@pytest.mark.parametrize(
    ("file", "settings", "refused"),
    [
        ("adapter_config.json", {"megatron_core": "antigravity", "megatron_config": {"a": 1}}, True),
        ("adapter_config.json", {"megatron_core": "megatron.core"}, False),
        ("2_Dense/config.json", {"activation_function": "evil.module.Function"}, True),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"}, False),
        ("settings.json", {"sentence_transformers": {"activation_fn": "torch.hub.load"}}, True),
        ("settings.json", {"activation_function": "gelu_new"}, False),
    ],
)
def test_settings_that_would_import_another_module(tmp_path, file, settings, refused):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(settings))
    findings = inspect(tmp_path).refusals
    assert ["imported" in finding.message for finding in findings] == [True] * refused


@pytest.mark.parametrize(
    ("base", "said"),
    [("gpt2", "--inspect gpt2"), ("../outside", "a folder"), ("/etc/models", "a folder"), ("C:\\models", "a folder")],
)
def test_every_base_that_an_adapter_would_load_is_said(tmp_path, base, said):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    [finding] = inspect(tmp_path).findings
    assert finding.level == "warning" and said in finding.message


@pytest.mark.slow
def test_pull_refuses_what_inspect_refuses_unless_told_otherwise(folder, hub, tmp_path):
    publish(hub, folder)
    clean = hub.repos["user/repo"].at().oid
    (folder / "tool.py").write_text("print('mine')\n")
    evil = pickle.dumps(Evil())  # under a name that is a pattern, too, which fits another file
    publish(hub, folder, **{"../../escaped.json": b"{}", "words.txt": evil, "a[1].txt": evil, "a1.txt": b"good"})
    with pytest.raises(ValueError, match=r"not safe to load:\n(?s:.*)tool\.py(?s:.*)--allow_unsafe"):
        pull("user/repo")
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*"))
    cached = pull("user/repo", revision=clean)
    assert cached.name == clean and inspect(cached).findings == []  # its files are links into the cache's blobs
    taken = pull("user/repo", local_dir=tmp_path / "here", allow_unsafe=True)
    assert (taken / "tool.py").exists() and (taken / "a1.txt").exists()
    assert not (taken / "words.txt").exists() and not (taken / "a[1].txt").exists()
    assert not list(tmp_path.rglob("escaped.json"))


def test_a_private_repo_is_looked_at_with_the_token_and_says_nothing_of_it(folder, hub):
    publish(hub, folder)
    hub.repos["user/repo"].private = True
    assert "hf_write" not in inspect("user/repo").text()
    stored = [seen.authorization for seen in hub.seen if seen.storage]
    assert stored and not any(stored)
    with pytest.raises(OSError) as refused:
        inspect("user/repo", token="hf_other")
    assert "hf_other" not in str(refused.value)


def test_the_command_lists_and_ends_with_1_where_something_is_refused(folder, monkeypatch, capsys):
    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["lookback", "pull", *arguments])
        cli.main()

    call("--inspect", str(folder))
    assert capsys.readouterr().out.endswith("files, 0 refused, 0 to judge for yourself\n")
    (folder / "a.pkl").write_bytes(b"x")
    with pytest.raises(SystemExit) as ended:
        call("--inspect", str(folder))
    assert ended.value.code == 1 and "refused  a.pkl: a pickle" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        call("--revision", "main")
    assert ended.value.code == 2 and "--inspect" in capsys.readouterr().err
