"""Push and pull against the loopback Hub: what is sent and fetched, and what is refused."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

from hub_cards import pull, push, write_card
from hub_cards.cards.facts import PLACEHOLDER
from hub_cards.cards.merge import is_generated
from tests.support.cards import PERSON, fake_model
from tests.support.loopback_hub.fixtures import commit, read


def test_push_sends_the_model_without_what_a_training_left(hub, saved):
    for name in (
        "training_args.bin", "checkpoint-8/optimizer.pt", "checkpoint-8/config.json", "runs/events", "emissions.csv",
        "wandb/run-1/files/code/train.py", "mlruns/0/meta.yaml", "swanlog/run/a.log", "dvclive/metrics.json",
    ):  # fmt: skip
        (saved / name).parent.mkdir(parents=True, exist_ok=True)
        (saved / name).write_text("x")
    made = push(saved, "user/name", private=True, revision="next", token="hf_write", commit_message="first")
    repo = hub.repos["user/name"]
    assert (
        repo.private and repo.branches["next"] == made.oid and made.commit_url.endswith(f"user/name/commit/{made.oid}")
    )
    assert repo.at("next").title == "first" and repo.files("main") == {}
    assert set(repo.files("next")) == {
        "README.md", "config.json", "model.safetensors", "modeling_biencoder.py", "retriever/tokenizer.json",
    }  # fmt: skip


def test_a_checkpoint_is_sent_and_pulled_without_what_resumes_it(hub, saved):
    model = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "scaler.pt",
        "rng_state.pth",
        "rng_state_1.pth",
        "trainer_state.json",
    ):
        (saved / name).write_text("{}")
    push(saved, "user/name")
    assert set(hub.repos["user/name"].files()) == model
    commit(hub, "user/name", saved)
    folder = pull("user/name")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == model


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.PT", "deep/er/index.pkl", "a.pth", "b.ckpt"])
def test_a_pickle_is_refused_both_ways_before_anything_moves(hub, saved, name):
    (saved / name).parent.mkdir(parents=True, exist_ok=True)
    (saved / name).write_text("x")
    with pytest.raises(ValueError, match=rf"{name}.*safetensors"):
        push(saved, "user/name")
    assert not hub.seen
    commit(hub, "user/name", saved)
    with pytest.raises(ValueError, match=rf"(?s)user/name.*{name}.*safetensors"):
        pull("user/name")
    assert not list(Path(constants.HF_HUB_CACHE).rglob("config.json"))


def test_a_folder_without_a_model_is_refused(hub, tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        push(tmp_path, "user/name")
    with pytest.raises(ValueError, match="is no folder"):
        push(tmp_path / "missing", "user/name")
    with pytest.raises(TypeError, match="source is a int"):
        push(3, "user/name")
    assert not hub.seen


def test_pull_fetches_known_formats_of_one_commit(hub, saved, tmp_path):
    known = {"config.json", "modeling_biencoder.py", "retriever/tokenizer.json", "README.md", "model.safetensors"}
    for name in ("training_args.bin", "movie.mp4", "checkpoint-2/model.safetensors", "last-checkpoint/optimizer.pt"):
        (saved / name).parent.mkdir(exist_ok=True)
        (saved / name).write_text("x")
    oid = commit(hub, "user/name", saved)
    folder = pull("user/name", revision="main")
    assert folder.name == oid
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == known
    assert (pull("user/name", oid, local_dir=tmp_path / "here") / "config.json").read_text() == "{}"


def test_push_keeps_what_a_person_wrote_on_the_hub(hub, saved, tmp_path):
    on_hub = write_card(fake_model(), tmp_path / "hub", metrics={"mrr@10": 9.0})
    on_hub.write_text(on_hub.read_text() + f"\n{PERSON}\n")
    commit(hub, "user/name", README__md=on_hub.read_text())
    write_card(fake_model(), saved, metrics={"mrr@10": 1.0})
    push(saved, "user/name")
    assert PERSON in read(hub, "README.md", "user/name") and "| mrr@10 | 1 |" in read(hub, "README.md", "user/name")
    assert [result.metric_value for result in ModelCard(read(hub, "README.md", "user/name")).data.eval_results] == [
        1.0
    ]


def test_a_card_edited_in_the_folder_wins_over_the_one_on_the_hub(hub, saved, tmp_path):
    commit(hub, "user/name", README__md=write_card(fake_model(), tmp_path / "hub").read_text())
    (saved / "README.md").write_text((saved / "README.md").read_text() + f"\n{PERSON}\n")
    push(saved, "user/name")
    assert read(hub, "README.md", "user/name").rstrip().endswith(PERSON)


def test_weights_of_an_earlier_push_go(hub, saved):
    """A single file that stays beside new shards would be loaded in their place, and an adapter onto full weights."""
    names = ("model-00001-of-00002.safetensors", "model.safetensors.index.json", "adapter_config.json", "notes.txt")
    for name in names:
        (saved / name).write_text("{}")
    (saved / "adapter_model.safetensors").write_text("x")
    commit(hub, "user/name", saved)
    for name in (*names, "adapter_model.safetensors"):
        (saved / name).unlink()
    push(saved, "user/name")
    assert {"notes.txt", "model.safetensors", "retriever/tokenizer.json"} <= set(hub.repos["user/name"].files())
    assert not {*names[:3], "adapter_model.safetensors"} & set(hub.repos["user/name"].files())
    assert push(saved, "user/name").oid == hub.repos["user/name"].branches["main"]  # nothing new: no commit


def test_a_push_leaves_the_folder_and_the_hubs_cache_as_they_are(hub, saved):
    """Else the person's words of one push would count as an edit in the folder, and theirs of later would be lost."""
    before = (saved / "README.md").read_bytes()
    push(saved, "user/name")
    for words in ("First words.", "Later words."):
        commit(hub, "user/name", README__md=read(hub, "README.md", "user/name") + f"\n{words}\n")
        push(saved, "user/name")
        assert words in read(hub, "README.md", "user/name") and (saved / "README.md").read_bytes() == before
    folder = pull("user/name")
    cached = (folder / "README.md").read_bytes()
    commit(hub, "user/copy", README__md=f"{PERSON}\n")
    push(folder, "user/copy")
    assert (folder / "README.md").read_bytes() == cached


def test_the_card_that_is_sent_names_the_repo(hub, saved):
    """A card saved without a repo id has a placeholder in its code, and no folder has one of a person's."""
    card = saved / "README.md"
    assert f'from_pretrained("{PLACEHOLDER}"' in card.read_text()
    for repo_id in ("user/one", "user/two"):  # from the same folder
        push(saved, repo_id)
        sent = ModelCard(read(hub, "README.md", repo_id))
        assert f'from_pretrained("{repo_id}"' in sent.text and PLACEHOLDER not in sent.text and is_generated(sent)
    card.write_text(card.read_text() + f"\nMine: {PLACEHOLDER}\n")
    push(saved, "user/three")
    sent = read(hub, "README.md", "user/three")
    assert 'from_pretrained("user/three"' in sent and sent.endswith(f"Mine: {PLACEHOLDER}\n")
    card.write_text(card.read_text().replace("A bi-encoder: it maps", "Ours. It maps"))
    push(saved, "user/four")
    assert read(hub, "README.md", "user/four") == card.read_text()


def test_a_push_first_finishes_a_save_that_was_killed(hub, saved):
    (saved / ".saved").mkdir()
    (saved / ".saved" / "config.json").write_text('{"new": 1}')
    push(saved, "user/name")
    assert read(hub, "config.json", "user/name") == '{"new": 1}' and not (saved / ".saved").exists()
