"""A model is looked at once, then built; where its repo lies, and whether its code may run, reaches every step."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, LlamaConfig

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM
from tests.support import quick_first
from tests.support.files import write_rows
from tests.support.loopback_hub import LoopbackHub, in_process
from tests.support.loopback_hub.fixtures import commit
from tests.support.loopback_hub.fixtures import hub as hub
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS
from trainers import (
    BiEncoderTrainer,
    LlaraTrainer,
    SelfRetrievalTrainer,
    add_adapter,
    load_adapted,
    load_adapter,
)
from trainers.commands import convert, encode, finetune, generate, mine, perplexity, pretrain, score, train_lm
from trainers.models.components import plain_settings
from trainers.models.kind import look
from trainers.models.load import load_as_biencoder, load_biencoder, load_llara, load_srlm

OWN_CODE = (
    "from transformers import PreTrainedTokenizerFast\n\n\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
)
SIZES = {"context_window_size": 64, "chunk_size": 16, "target_size": 32}
ADAPTED = {"adapted": "biencoder", "adapted_plain": "backbone", "adapted_llara": "llara", "adapted_srlm": "srlm"}


def build(kind: str, seed: int) -> Any:
    if kind == "backbone":
        return tiny_backbone(seed=seed)
    if kind in ("biencoder", "retriever", "adapted", "adapted_plain"):
        return BiEncoderModel.from_backbone(tiny_backbone(seed=seed, lm_head=False), tiny_tokenizer())
    if kind in ("srlm", "adapted_srlm"):
        retriever = build("retriever", seed)
        return SelfRetrievalLM.from_components(tiny_backbone(seed=seed), tiny_tokenizer(), retriever, **SIZES)
    return LlaraForPreTraining.from_backbone(tiny_backbone(seed=seed), tiny_tokenizer())


def give_own_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    settings = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    (folder / "own.py").write_text(OWN_CODE)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Of each kind a folder as it was first, and one of other weights; the tokenizers have code of their own."""
    root = tmp_path_factory.mktemp("repos")
    for seed in (0, 1):
        for kind in ("backbone", "biencoder", "retriever", "llara", "srlm"):
            model = build(kind, seed)
            model.save_pretrained(root / f"{kind}{seed}")
            if kind == "backbone":
                tiny_tokenizer().save_pretrained(root / f"{kind}{seed}")
        model = build("llara", seed)
        model.save_backbone(root / f"published{seed}")
    for folder in list(root.iterdir()):
        give_own_tokenizer(folder)
        if (folder / "retriever_tokenizer").exists():
            give_own_tokenizer(folder / "retriever_tokenizer")
            shutil.copy(folder / "own.py", folder / "retriever_tokenizer")
    return root


@pytest.fixture(scope="module")
def adapters(folders: Path, tmp_path_factory) -> Path:
    """Of each kind an adapter on its base's first commit, whose id follows from the files, on every Hub."""
    root, hub = tmp_path_factory.mktemp("adapters"), LoopbackHub()
    for kind, base in ADAPTED.items():
        model = build(kind, 0)
        named = model.config if base != "backbone" else model.config.text_config
        named.name_or_path, named._commit_hash = f"user/{base}", commit(hub, f"user/{base}", folders / f"{base}0")
        model.name_or_path = "" if base == "backbone" else f"user/{base}"
        add_adapter(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
        model.save_pretrained(root / kind)
        give_own_tokenizer(root / kind)
    return root


@pytest.fixture
def firsts(hub: LoopbackHub, folders: Path, adapters: Path) -> dict[str, str]:
    """Kind -> its repo's first commit; all repos are private, and have a second commit since."""
    found = {}
    for kind in ("backbone", "biencoder", "retriever", "llara", "srlm", "published"):
        found[kind] = commit(hub, f"user/{kind}", folders / f"{kind}0")
        commit(hub, f"user/{kind}", folders / f"{kind}1")
    for kind, base in ADAPTED.items():
        assert found[base] in (adapters / kind / "adapter_config.json").read_text()
        found[kind] = commit(hub, f"user/{kind}", adapters / kind)
        commit(hub, f"user/{kind}", adapter_model__safetensors="of another adapter")
    for repo in hub.repos.values():
        repo.private = True
    return found


def wrapped(source: str, **loading: Any) -> SelfRetrievalLM:
    first = loading.pop("retriever_revision")
    return load_srlm(source, SIZES, "user/retriever", first, **loading)


def in_training(trainer_class: type, source: str, retriever_revision: str | None = None, **loading: Any) -> Any:
    settings = {"retrieval_method": "dense", "retriever": "user/retriever", "retriever_revision": retriever_revision}
    trainer = object.__new__(trainer_class)
    trainer.args, trainer.eval_dataset = trainer_class.arguments_class(output_dir="unused", use_cpu=True), None
    keywords = {**loading, **({**SIZES, **settings} if retriever_revision else {})}
    return trainer._load(source, None, keywords, trainer.check_weightless(source, None, keywords, None))


LOADS: dict[tuple[str, str], Callable[..., Any]] = {
    ("embed", "backbone"): partial(load_biencoder, pooling="mean"),
    **{("embed", kind): load_biencoder for kind in ("biencoder", "llara", *ADAPTED) if kind != "adapted_srlm"},
    **{("convert", kind): load_as_biencoder for kind in ("llara", "adapted_llara", "published")},
    **{("explain", kind): load_llara for kind in ("llara", "adapted_llara")},
    **{("generate", kind): partial(load_srlm, settings={}) for kind in ("srlm", "adapted_srlm")},
    ("wrap", "backbone"): wrapped,
    ("train-lm", "backbone"): partial(in_training, SelfRetrievalTrainer),
    **{("finetune", kind): partial(in_training, BiEncoderTrainer) for kind in ("backbone", "biencoder", "llara")},
    **{("pretrain", kind): partial(in_training, LlaraTrainer) for kind in ("backbone", "llara")},
    **{("merge", kind): load_adapted for kind in ADAPTED},
}  # fmt: skip


KINDS_OF_FOLDER = ("backbone", "biencoder", "llara", "adapted_plain", "adapted_llara")


CELLS = [pytest.param(*one, marks=pytest.mark.slow) if place % 3 else one for place, one in enumerate(LOADS)]


@pytest.mark.cases(2)
@pytest.mark.parametrize(("way", "kind"), CELLS)
def test_where_a_repo_lies_reaches_every_step(fresh_code, hub, firsts, folders, tmp_path, monkeypatch, way, kind):
    home, cache = tmp_path / "home", tmp_path / "cache"
    in_process(hub, monkeypatch, home)  # not logged in
    hub.seen.clear()
    more = {"retriever_revision": firsts["retriever"]} if way in ("wrap", "train-lm") else {}
    loading = {"revision": firsts[kind], "token": "hf_read", "cache_dir": str(cache), "trust_remote_code": True}
    model = LOADS[way, kind](f"user/{kind}", **loading, **more)
    assert type(model.tokenizer).__name__ == "OwnTokenizer"
    if getattr(model, "retriever", None) is not None:
        assert type(model.retriever_tokenizer).__name__ == "OwnTokenizer"
        wanted = build("retriever", 0).get_input_embeddings().weight
        assert torch.equal(model.retriever.backbone.get_input_embeddings().weight, wanted)
    known = slice(len(tiny_tokenizer()))  # behind them come the rows of the prompts' special tokens
    wanted = build(ADAPTED.get(kind, kind).replace("published", "llara"), 0).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[known], wanted[known])
    # transformers lists a tokenizer's files without the token (5.23), and does without the list.
    asked = [seen for seen in hub.seen if not seen.storage and not seen.path.startswith("/api/")]
    assert asked and [seen for seen in asked if seen.authorization != "Bearer hf_read"] == []
    # AutoModel notes that there is no adapter in the cache that it knows (5.23), and stores nothing there.
    assert [file for file in home.rglob("*.json") if ".no_exist" not in file.parts] == []
    assert list(cache.rglob("*.safetensors"))


def test_an_adapter_for_a_model_that_is_there_is_found_where_it_lies(hub, firsts, adapters, tmp_path, monkeypatch):
    in_process(hub, monkeypatch, tmp_path / "home")  # not logged in
    model = build("biencoder", 0)
    load_adapter(model, "user/adapted", revision=firsts["adapted"], token="hf_read", cache_dir=str(tmp_path / "cache"))
    adapted = build("biencoder", 0)
    load_adapter(adapted, adapters / "adapted")
    assert torch.equal(model.encode(["a text"]), adapted.encode(["a text"]))
    assert not (tmp_path / "home").exists() and list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("kind", quick_first(["adapted", *KINDS_OF_FOLDER]))
def test_mine_asks_nothing_twice(fresh_code, hub, firsts, tmp_path, monkeypatch, kind):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    options = ["--data", str(tmp_path / "rows.jsonl"), "--rank_from", "0", "--num_negatives", "1", "--overwrite"]
    options += ["--output", str(tmp_path / "mined.jsonl"), "--model", f"user/{kind}", "--trust_remote_code"]
    options += ["--revision", firsts[kind]] if kind in ADAPTED else []
    options += ["--pooling", "mean"] if kind == "backbone" else []
    for files_are_here in (False, True):
        hub.seen.clear()
        mine.main(options)
        asked = Counter((seen.method, seen.path) for seen in hub.seen if not seen.storage)
        assert {what: times for what, times in asked.items() if times > 1} == {}
        if files_are_here:
            assert not [path for _, path in asked if path.endswith(("config.json", ".safetensors"))]


def test_a_trainer_asks_once_what_kind_of_model_it_is_given(fresh_code, hub, firsts, tmp_path, monkeypatch):
    asked = []

    class Counting:
        @staticmethod
        def from_pretrained(source: str, **loading: Any) -> Any:
            asked.append(source)
            return AutoConfig.from_pretrained(source, **loading)

    monkeypatch.setattr("trainers.models.kind.AutoConfig", Counting)
    in_training(BiEncoderTrainer, "user/llara", trust_remote_code=True)
    assert asked == ["user/llara"]


def test_what_was_looked_at_is_what_is_built(fresh_code, hub, firsts, folders, monkeypatch, tmp_path):
    """A branch that moves on in between does not mix two commits."""
    commit(hub, "user/biencoder", folders / "biencoder0")

    def look_then_move(*args: Any, **loading: Any) -> Any:
        found = look(*args, **loading)
        commit(hub, "user/biencoder", folders / "biencoder1")
        return found

    monkeypatch.setattr("trainers.models.load.look", look_then_move)
    loaded = load_biencoder("user/biencoder", trust_remote_code=True)
    assert torch.equal(loaded.get_input_embeddings().weight, build("biencoder", 0).get_input_embeddings().weight)


def test_an_adapter_as_peft_saves_it_is_found_by_its_base(tmp_path):
    build("backbone", 0).save_pretrained(tmp_path / "base")
    by_peft = get_peft_model(build("backbone", 0), LoraConfig(r=2, target_modules=["q_proj"]))
    by_peft.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    by_peft.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "config.json").exists()
    found = look(tmp_path / "adapter")
    assert found.model_type == "llama" and found.adapter is not None and found.base is not None
    assert found.base.source == str(tmp_path / "base")
    with pytest.raises(ValueError, match=r"adapter .* is of type 'llama', not one of lookback_biencoder"):
        load_adapted(tmp_path / "adapter")
    with pytest.raises(ValueError, match="must be one of a LLaRA model"):
        load_as_biencoder(str(tmp_path / "adapter"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=r"has no config\.json, which says what kind of model it is"):
        look(tmp_path / "empty")


WRONG = [
    (finetune, "srlm"),
    (pretrain, "srlm"),
    (pretrain, "biencoder"),
    (train_lm, "llara"),
    (train_lm, "biencoder"),
    *((command, kind) for command in (perplexity, generate, score) for kind in ("biencoder", "llara")),
    (encode, "srlm"),
    (convert, "srlm"),
    (convert, "biencoder"),
]


@pytest.mark.parametrize(("command", "kind"), WRONG)
def test_another_kind_of_ours_is_refused_with_what_to_give(folders, tmp_path, command, kind):
    name = command.__name__.rpartition(".")[2]
    (tmp_path / "text.txt").write_text("one two three")
    write_rows(tmp_path / "rows.jsonl", PAIRS)
    data = ["--data", str(tmp_path / "text.txt")]
    more = {
        "generate": ["--prompt", "a"], "encode": [*data, "--output", str(tmp_path / "e.safetensors")],
        "perplexity": data, "score": [*data, "--task", "document", "--output", str(tmp_path / "s.jsonl")],
        "convert": ["--output", str(tmp_path / "c")],
    }  # fmt: skip
    train = ["--train_data", str(tmp_path / "rows.jsonl"), "--output_dir", str(tmp_path / "run"), "--use_cpu"]
    with pytest.raises(ValueError, match=r"is of type 'lookback_\w+' and must be a lookback_\w+ here, or a plain"):
        command.main(["--model", str(folders / f"{kind}0"), *more.get(name, train)])


@pytest.mark.parametrize("positions", [256, 400, 512, 1000, 2048, 8192])
@pytest.mark.parametrize("reuse_states", [False, True])
def test_what_a_plain_model_is_given_fits_its_positions(positions, reuse_states):
    config = LlamaConfig(max_position_embeddings=positions)
    given = {"reuse_states": reuse_states}
    settings = {**plain_settings(config, given), **given}
    SelfRetrievalConfig(text_config=config, retrieval_method="bm25", **settings).check()
    assert settings["key_num"] == (8 if reuse_states and positions >= 400 else 4)


def test_a_window_that_leaves_no_room_for_eight_keys_is_taken_with_four():
    given = {"reuse_states": True, "context_window_size": 7168}
    assert plain_settings(LlamaConfig(max_position_embeddings=8192), given)["key_num"] == 4
