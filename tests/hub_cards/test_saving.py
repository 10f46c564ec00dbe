"""A save is whole or not there: full disks, killed processes, other shards; and damaged weights are named."""

import codecs
import errno
import os
import threading

import pytest
import torch
import transformers.modeling_utils
from huggingface_hub import snapshot_download
from peft import LoraConfig
from transformers import PreTrainedTokenizerBase

from modeling_biencoder import BiEncoderModel
from modeling_biencoder import locking_biencoder as locking
from modeling_biencoder import repository_biencoder as repository
from modeling_biencoder import saving_biencoder as saving
from modeling_llara import LlaraForPreTraining
from tests.support.faults.copies import kill_myself, killed
from tests.support.tiny import tiny_backbone, tiny_tokenizer


def build(seed: int = 0) -> BiEncoderModel:
    return BiEncoderModel.from_backbone(tiny_backbone(seed=seed, lm_head=False), tiny_tokenizer(), pooling="mean")


def content(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_weights(folder, model) -> bool:
    loaded = BiEncoderModel.from_pretrained(folder).state_dict()
    return all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "saved"
    build().save_pretrained(folder, max_shard_size="40KB")
    (folder / "mine.txt").write_text("mine")
    return folder


def fail_at(monkeypatch, module, name: str, call: int, act) -> None:
    """Let the `call`-th call of a function do `act` instead."""
    original, calls = getattr(module, name), []

    def counting(*arguments, **keywords):
        calls.append(name)
        if len(calls) == call:
            act()
        return original(*arguments, **keywords)

    monkeypatch.setattr(module, name, counting)


def no_space():
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.cases(1)
@pytest.mark.parametrize("call", [1, 2])
def test_a_full_disk_leaves_the_folder_as_it_was(saved, monkeypatch, call):
    before = content(saved)
    fail_at(monkeypatch, transformers.modeling_utils, "safe_save_file", call, no_space)
    with pytest.raises(OSError, match=r"no space left to save into .*saved.*as it was") as raised:
        build(1).save_pretrained(saved, max_shard_size="40KB")
    assert raised.value.errno == errno.ENOSPC and content(saved) == before
    assert same_weights(saved, build())


def test_an_error_in_a_new_folder_leaves_none(tmp_path, monkeypatch):
    fail_at(monkeypatch, repository, "_write_card", 1, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build().save_pretrained(tmp_path / "new" / "folder")
    assert not (tmp_path / "new" / "folder").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        build().save_pretrained(tmp_path / "file")


@pytest.mark.cases(1)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("name", "call"), [("safe_save_file", 2), ("_write_card", 1), ("flush_folder", 1)])
def test_a_kill_while_writing_leaves_the_folder_as_it_was(saved, monkeypatch, name, call):
    before, model = content(saved), build(1)
    modules = {"safe_save_file": transformers.modeling_utils, "_write_card": repository, "flush_folder": saving}
    fail_at(monkeypatch, modules[name], name, call, kill_myself)
    killed(lambda: model.save_pretrained(saved, max_shard_size="40KB"))
    assert {name: data for name, data in content(saved).items() if not name.startswith(".saving/")} == before
    assert same_weights(saved, build())
    monkeypatch.undo()
    model.save_pretrained(saved, max_shard_size="40KB")
    assert same_weights(saved, model) and not (saved / ".saving").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_while_files_take_their_places_is_made_good_by_the_next_load_or_save(saved, monkeypatch):
    model = build(1)
    fail_at(monkeypatch, saving.os, "replace", 3, kill_myself)
    killed(lambda: model.save_pretrained(saved, max_shard_size="40KB"))
    monkeypatch.undo()
    assert (saved / ".saved").is_dir()
    assert same_weights(saved, model)
    assert not (saved / ".saved").exists() and (saved / "mine.txt").read_text() == "mine"


def test_other_shards_do_not_stay(saved):
    """A single file would be loaded in place of the shards' index, and stale shards would be pushed."""
    one, two = build(1), build(2)
    assert (saved / "model.safetensors.index.json").exists()
    one.save_pretrained(saved)
    assert [path.name for path in saved.glob("model*safetensors*")] == ["model.safetensors"]
    assert same_weights(saved, one)
    two.save_pretrained(saved, max_shard_size="40KB")
    assert not (saved / "model.safetensors").exists() and same_weights(saved, two)
    assert (saved / "mine.txt").exists()


def test_an_adapter_does_not_stay_beside_full_weights(saved):
    """transformers would load the adapter's base, and the adapter, in place of what was saved."""
    folder = saved.parent / "adapter"
    adapted = BiEncoderModel.from_pretrained(saved)
    adapted.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["q_proj"]))
    adapted.save_pretrained(folder)
    assert (folder / "adapter_config.json").exists() and not (folder / "model.safetensors").exists()
    model = build(1)
    model.save_pretrained(folder)
    assert same_weights(folder, model) and not list(folder.glob("adapter*"))
    adapted.save_pretrained(saved)  # beside its own base: that one stays
    assert list(saved.glob("model-*.safetensors"))


def save_plain(kind: str, seed: int, folder) -> None:
    """Save a plain checkpoint, of a LLaRA model's backbone or for sentence-transformers."""
    if kind == "backbone":
        LlaraForPreTraining.from_backbone(tiny_backbone(seed=seed), tiny_tokenizer()).save_backbone(folder)
    else:
        build(seed).export_sentence_transformers(folder)


@pytest.mark.parametrize("kind", ["backbone", "export"])
def test_a_plain_checkpoint_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch, kind):
    save_plain(kind, 0, tmp_path)
    before = content(tmp_path)
    fail_at(monkeypatch, PreTrainedTokenizerBase, "save_pretrained", 1, no_space)  # the weights are written by then
    with pytest.raises(OSError, match=r"no space left to save into .*as it was"):
        save_plain(kind, 1, tmp_path)
    assert content(tmp_path) == before
    monkeypatch.undo()
    save_plain(kind, 1, tmp_path)
    after = content(tmp_path)
    assert after.keys() == before.keys() and after["model.safetensors"] != before["model.safetensors"]


def test_damaged_weights_are_named(saved, hub, tmp_path):
    [first, second, *_] = sorted(saved.glob("model-*.safetensors"))
    whole = second.read_bytes()
    for data in (whole[:-8], whole[:5], b""):
        second.write_bytes(data)
        with pytest.raises(OSError, match=rf"{second.name} of .* is truncated"):
            BiEncoderModel.from_pretrained(saved)
    second.write_bytes(whole)
    build().push_to_hub("user/repo", max_shard_size="40KB")
    cached = snapshot_download("user/repo")
    blob = os.path.realpath(os.path.join(cached, first.name))
    with open(blob, "r+b") as file:
        file.seek(20)
        file.write(b"\xff")
    with pytest.raises(OSError, match=rf"'user/repo' cannot be loaded, as {first.name}"):
        BiEncoderModel.from_pretrained("user/repo")
    assert same_weights(saved, BiEncoderModel.from_pretrained("user/repo", force_download=True))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_byte_order_mark_is_named(saved, variant):
    build().save_pretrained(saved, max_shard_size="40KB", variant=variant)
    for file in (next(saved.glob(f"*index.{variant}.json" if variant else "*index.json")), saved / "config.json"):
        file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
        with pytest.raises(OSError, match=rf"{file.name} of .* begins with a byte order mark: write it as UTF-8"):
            BiEncoderModel.from_pretrained(saved, variant=variant)


def test_a_variants_former_weights_go_and_others_stay(saved):
    build(1).save_pretrained(saved, variant="fp16")
    build(2).save_pretrained(saved, variant="fp16", max_shard_size="40KB")
    assert not (saved / "model.fp16.safetensors").exists() and same_weights(saved, build())
    loaded = BiEncoderModel.from_pretrained(saved, variant="fp16").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in build(2).state_dict().items())
    assert saving.weights_variant("model.fp16-00001-of-00002.safetensors") == "fp16"


def test_a_link_to_nowhere_is_refused_by_its_name(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match="is a link to what is not there"):
        build().save_pretrained(tmp_path / "link")


def test_a_folder_in_the_place_of_a_file_is_named_and_all_stays_as_it_was(saved):
    before = content(saved)
    (saved / "model.safetensors").mkdir()
    with pytest.raises(ValueError, match=r"saved/model.safetensors' is a folder, and .* a file of that name: remove"):
        build(1).save_pretrained(saved)
    assert content(saved) == before and not list(saved.glob(".sav*"))
    (saved / "1_Pooling").write_text("")
    with pytest.raises(ValueError, match=r"saved/1_Pooling' is a file, and .* a folder of that name: remove"):
        build(1).export_sentence_transformers(saved)


def test_the_card_describes_the_adapter_that_is_saved(tmp_path):
    model = build()
    for name, rank in (("a", 2), ("b", 3)):
        model.add_adapter(LoraConfig(r=rank, target_modules=["q_proj"]), adapter_name=name)
    model.set_adapter("b")
    model.save_pretrained(tmp_path)
    assert "rank 3" in (tmp_path / "README.md").read_text()


def at_once(work) -> threading.Thread:
    """`work` in a thread that has begun and, a moment later, has not ended."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    return thread


def test_a_load_waits_for_a_save_that_takes_its_place(saved, monkeypatch):
    found, threads = [], []

    def load():
        found.append(same_weights(saved, build(1)))

    fail_at(monkeypatch, saving.os, "replace", 3, lambda: threads.append(at_once(load)))
    build(1).save_pretrained(saved, max_shard_size="40KB")
    threads[0].join()
    assert found == [True]


def test_a_load_while_another_process_writes_reads_what_is_there_and_a_save_waits(saved):
    with saving.saved_whole(saved) as place:
        build(1).save_pretrained(place)
        assert same_weights(saved, build())
        thread = at_once(lambda: build(2).save_pretrained(saved))
    thread.join()
    assert same_weights(saved, build(2)) and not list(saved.glob(".sav*"))


def test_a_save_that_comes_while_shards_are_read_does_not_mix_with_them(saved, monkeypatch):
    fail_at(
        monkeypatch, transformers.modeling_utils, "safe_open", 3,
        lambda: build(1).save_pretrained(saved, max_shard_size="40KB"),
    )  # fmt: skip
    assert same_weights(saved, build(1))
    fail_at(monkeypatch, transformers.modeling_utils, "safe_open", 3, lambda: build(2).save_pretrained(saved))
    assert same_weights(saved, build(2))  # the shards that the index named have gone


def test_saves_and_loads_go_without_locks_where_there_are_none(saved, monkeypatch):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    for flock in (no_locks, None):
        monkeypatch.setattr(locking, "flock", flock)
        build(1).save_pretrained(saved)
        assert same_weights(saved, build(1))


def test_a_save_that_another_one_never_lets_begin_is_said(saved, monkeypatch):
    monkeypatch.setattr(locking, "_PATIENCE", -1.0)
    with saving.saved_whole(saved), pytest.raises(OSError, match=r"another process has been saving into .*saved"):
        build(1).save_pretrained(saved)
