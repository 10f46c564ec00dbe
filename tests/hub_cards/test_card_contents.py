"""What a card of a run says: origin, licence, data, pictures; and that nothing a person wrote in it is lost."""

import importlib.util
import json
import math
import re

import huggingface_hub
import pytest
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard
from peft import LoraConfig

from hub_cards import push, render_card, write_card
from modeling_biencoder import BiEncoderModel
from modeling_srlm import SelfRetrievalLM
from tests.support.cards import PERSON, fake_model
from tests.support.families import build
from tests.support.loopback_hub.fixtures import commit, read
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PAIRS, arguments
from trainers import (
    BiEncoderTrainer,
    BiEncoderTrainingArguments,
    DataSetEntry,
    LlaraTrainer,
    LlaraTrainingArguments,
    add_adapter,
    merge_adapter,
)
from trainers.base.cards import data_facts
from trainers.biencoder.entries import plain_sources

CARD = {"license": "other", "license_name": "its-own", "license_link": "LICENSE"}


def section(text: str, name: str) -> str:
    return re.search(rf"<!-- lookback:begin {name}.*?<!-- lookback:end {name} -->", text, re.DOTALL)[0]


def code_of(card: ModelCard) -> str:
    code, *_ = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    return code


def publish_backbone(hub, folder, repo_id: str = "user/base", **metadata: str) -> str:
    tiny_backbone(lm_head=False).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    lines = "\n".join(f"{key}: {value}" for key, value in metadata.items())
    (folder / "README.md").write_text(f"---\n{lines}\n---\n# Base\n" if metadata else "# Base\n")
    return commit(hub, repo_id, folder)


def test_a_section_that_a_person_edited_stays_and_the_others_are_renewed(tmp_path):
    path = write_card(fake_model(), tmp_path, training={"steps": 1}, metrics={"mrr@10": 0.1})
    text = path.read_text().replace("| steps | 1 |", "| steps | 1, and I stopped it by hand |")
    text = text.replace("<!-- lookback:end evaluation -->", "<!-- lookback:end evaluation -->\n\n## Limits\n\nFew.\n")
    path.write_text(text.replace("\n", "\r\n").replace("tags:", "thumbnail: mine.png\r\ntags:"), newline="")
    card = ModelCard.load(write_card(fake_model(), tmp_path, training={"steps": 9}, metrics={"mrr@10": 0.9}))
    assert "| steps | 1, and I stopped it by hand |" in card.text and "| steps | 9 |" not in card.text
    assert "| mrr@10 | 0.9 |" in card.text and "0.1 |" not in card.text
    assert "## Limits\n\nFew." in card.text.replace("\r\n", "\n") and card.data["thumbnail"] == "mine.png"
    path.write_text(path.read_text().replace(section(path.read_text(), "training"), ""))  # to have it anew
    assert "| steps | 9 |" in write_card(fake_model(), tmp_path, training={"steps": 9}).read_text()


def test_pushing_again_keeps_what_a_person_wrote_on_the_hub(hub, tmp_path):
    model = build("biencoder")
    model.push_to_hub("user/repo")
    card = ModelCard(read(hub, "README.md"))
    card.text = (
        card.text.replace("A bi-encoder: it maps", "Our bi-encoder for tar archives. It maps") + f"\n{PERSON}\n"
    )
    card.data["co2_eq_emissions"] = 3
    commit(hub, "user/repo", README__md=str(card))
    model.save_pretrained(tmp_path)
    write_card(model, tmp_path, repo_id="user/repo", metrics={"ndcg@10": 0.5})
    push(tmp_path, "user/repo")
    again = ModelCard(read(hub, "README.md"))
    assert "Our bi-encoder for tar archives." in again.text and PERSON in again.text
    assert again.data["co2_eq_emissions"] == 3 and "| ndcg@10 | 0.5 |" in again.text
    assert [result.metric_type for result in again.data.eval_results] == ["ndcg@10"]


def set_metadata(path, **values):
    card = ModelCard.load(path)
    for name, value in values.items():
        card.data[name] = value
    card.save(path)


def pushed(hub, folder):
    push(folder, "user/repo")
    return ModelCard(read(hub, "README.md")).data


def test_metadata_that_were_changed_in_the_folder_replace_those_of_an_earlier_push(hub, saved):
    path = saved / "README.md"
    set_metadata(path, license="apache-2.0", thumbnail="a.png")
    assert pushed(hub, saved).license == "apache-2.0"
    set_metadata(path, license="mit", thumbnail="b.png")
    write_card(fake_model(), saved)  # a later save keeps them, and knows whose they are
    data = pushed(hub, saved)
    assert (data.license, data["thumbnail"], data.library_name) == ("mit", "b.png", "transformers")
    write_card(fake_model(), saved, license="bsd-3-clause")
    assert pushed(hub, saved).license == "bsd-3-clause"
    set_metadata(path, pipeline_tag="feature-extraction")
    assert pushed(hub, saved).pipeline_tag == "feature-extraction"


def test_metadata_that_were_changed_on_the_hub_stay_where_the_folders_are_generated(hub, saved):
    assert pushed(hub, saved).license is None
    card = ModelCard(read(hub, "README.md"))
    card.data.license, card.data.pipeline_tag = "mit", "feature-extraction"
    commit(hub, "user/repo", README__md=str(card))
    for facts in ({}, {"training": {"steps": 1}}):
        write_card(fake_model(), saved, **facts)
        data = pushed(hub, saved)
        assert (data.license, data.pipeline_tag) == ("mit", "feature-extraction")
    set_metadata(saved / "README.md", pipeline_tag="fill-mask")  # on both sides: the folder's
    assert pushed(hub, saved).pipeline_tag == "fill-mask"


def test_the_metadata_of_a_card_that_a_person_wrote_are_theirs(hub, tmp_path, saved):
    path = saved / "README.md"
    path.write_text("---\nlicense: mit\n? 'a name --> of its own'\n: kept\n---\n# Mine\n")
    write_card(fake_model(), saved)
    path.write_text(path.read_text().replace("# Mine", ""))  # generated text alone is left
    commit(hub, "user/repo", README__md=write_card(fake_model(), tmp_path / "hub", license="other").read_text())
    data = pushed(hub, saved)
    assert data.license == "mit" and data["a name --> of its own"] == "kept"


@pytest.mark.skipif(huggingface_hub.__version__.startswith("1."), reason="this client asks huggingface.co alone")
@pytest.mark.parametrize("family", ["biencoder", "llara", "srlm"])
def test_the_client_finds_every_card_valid(hub, family):
    facts = {"training": {"steps": 1}, "metrics": {"ndcg@10": 0.5, "perplexity": 3.0, "loss": 1.0}, "license": "mit"}
    card = render_card(build(family), repo_id="user/name", evaluation_data="20 questions, held out", **facts)
    card.validate()
    results = ModelCard(str(card)).data.eval_results
    assert [result.metric_type for result in results] == ["ndcg@10", "perplexity"]
    assert results[0].dataset_type == "20-questions-held-out" and results[0].dataset_name == "20 questions, held out"
    with pytest.raises(ValueError, match="base_model_relation is 'copy'"):
        render_card(fake_model(), base_model_relation="copy")


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_figure_that_is_no_number_is_no_result(hub, value):
    card = render_card(fake_model(), metrics={"perplexity": value, "ndcg@10": 0.5})
    assert [result.metric_type for result in card.data.eval_results] == ["ndcg@10"]
    assert f"| perplexity | {value} |" in card.text and str(value) not in card.data.to_yaml()


def test_a_merged_model_takes_its_adapters_place_on_the_hub(hub):
    build("biencoder").push_to_hub("user/base")
    model = BiEncoderModel.from_pretrained("user/base")
    add_adapter(model, LoraConfig(target_modules=["q_proj"]))
    model.push_to_hub("user/repo")
    commit(hub, "user/repo", README__md=read(hub, "README.md").replace("tags:\n", "tags:\n- mine\n"))
    merge_adapter(model).push_to_hub("user/repo")
    data = ModelCard(read(hub, "README.md")).data
    assert data["base_model_relation"] == "finetune" and "peft" not in data.tags and "mine" in data.tags
    again = BiEncoderModel.from_pretrained("user/base")
    add_adapter(again, LoraConfig(target_modules=["q_proj"]))
    again.push_to_hub("user/repo")
    data = ModelCard(read(hub, "README.md")).data
    assert (data.base_model, data["base_model_relation"]) == ("user/base", "adapter") and "peft" in data.tags


def test_base_models_are_named_with_their_commits_also_after_saving(hub, tmp_path):
    oid = publish_backbone(hub, tmp_path / "base")
    model = BiEncoderModel.from_backbone("user/base")
    model.save_pretrained(tmp_path / "saved")
    hub.repos.clear()
    for again in (model, BiEncoderModel.from_pretrained(tmp_path / "saved")):
        card = render_card(again)
        assert (card.data.base_model, card.data["base_model_relation"]) == ("user/base", "finetune")
        assert f"| base model | `user/base`, commit `{oid}` |" in card.text
    lm = SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), model, context_window_size=256)
    assert f"`{oid}`" in render_card(lm).text and render_card(lm).data.base_model == "user/base"


def test_the_licence_is_that_of_the_base_and_never_made_up(hub, tmp_path):
    publish_backbone(hub, tmp_path / "base", **CARD)
    publish_backbone(hub, tmp_path / "bare", "user/bare")
    BiEncoderModel.from_backbone("user/base").push_to_hub("user/one")
    data = ModelCard(read(hub, "README.md", "user/one")).data.to_dict()
    assert {key: data[key] for key in CARD} == CARD
    BiEncoderModel.from_backbone("user/bare").push_to_hub("user/two")
    build("biencoder").push_to_hub("user/three")
    for repo_id in ("user/two", "user/three"):
        assert ModelCard(read(hub, "README.md", repo_id)).data.license is None
    local = BiEncoderModel.from_backbone(str(tmp_path / "base"))
    assert render_card(local).data["license_name"] == "its-own"
    assert render_card(local, license="mit").data.license == "mit"
    assert str(tmp_path) not in str(render_card(local))
    (tmp_path / "base" / "README.md").write_text("---\nlicense: [\n---\n")  # of no use, and no reason to fail
    assert render_card(local).data.license is None


def test_the_code_in_the_card_of_an_adapter_loads_it_onto_its_base(hub, tmp_path):
    build("biencoder").push_to_hub("user/base")
    model = BiEncoderModel.from_pretrained("user/base")
    lora = LoraConfig(target_modules=["q_proj"], r=3, init_lora_weights=False)
    add_adapter(model, lora)
    model.push_to_hub("user/adapter")
    card = ModelCard(read(hub, "README.md", "user/adapter"))
    assert (card.data.base_model, card.data["base_model_relation"]) == ("user/base", "adapter")
    assert "| adapter | LORA, rank 3:" in card.text and "peft" in card.data.tags
    head = hub.repos["user/base"].branches["main"]
    assert f'from_pretrained("user/base", revision="{head}", trust_remote_code=True)' in card.text
    namespace: dict = {}
    exec(code_of(card), namespace)
    wanted = model.encode(["open a tar archive"], role="query")
    assert (namespace["queries"] - wanted).abs().max() < 1e-6
    assert (build("biencoder").encode(["open a tar archive"], role="query") - wanted).abs().max() > 1e-3


def test_the_code_in_the_card_of_an_adapter_on_a_plain_backbone_runs(hub, tmp_path):
    oid = publish_backbone(hub, tmp_path / "plain", "user/plain")
    model = BiEncoderModel.from_backbone("user/plain", pooling="mean")
    add_adapter(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.push_to_hub("user/adapter")
    card = ModelCard(read(hub, "README.md", "user/adapter"))
    assert 'model = load_adapted("user/adapter")' in card.text and f"commit `{oid}`" in card.text
    namespace: dict = {}
    exec(code_of(card), namespace)
    assert (namespace["model"].encode(["a"]) - model.encode(["a"])).abs().max() < 1e-6


def test_the_loss_curve_is_a_small_picture_that_travels(hub, tmp_path):
    losses = {"training": [(1, 3.0), (2, 2.0), (3, 1.5)], "evaluation": [(3, 1.8)]}
    model = build("biencoder")
    model.save_pretrained(tmp_path)
    write_card(model, tmp_path, training={"steps": 3}, losses=losses)
    assert "![Loss by step](loss.png)" in section((tmp_path / "README.md").read_text(), "training")
    picture = (tmp_path / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) < 60_000
    push(tmp_path, "user/repo")
    assert hub.repos["user/repo"].files()["loss.png"] == picture
    HfApi().model_info("user/repo")


def test_without_matplotlib_or_a_curve_there_is_no_picture(tmp_path, monkeypatch):
    write_card(fake_model(), tmp_path, training={"steps": 1}, losses={"training": [(1, 3.0)]})
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    path = write_card(fake_model(), tmp_path, training={"steps": 2}, losses={"training": [(1, 3.0), (2, 2.0)]})
    assert "loss.png" not in path.read_text() and not (tmp_path / "loss.png").exists()
    assert "matplotlib" not in path.read_text()


@pytest.mark.slow
def test_a_run_on_files_names_them_and_no_folder(tmp_path):
    data, words = tmp_path / "pairs.jsonl", tmp_path / "words.txt"
    data.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    words.write_text("the and\n")
    model = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), temperature=0.1)
    args = arguments(BiEncoderTrainingArguments, tmp_path / "run", max_steps=3, eval_steps=3, eval_strategy="steps")
    trainer = BiEncoderTrainer(model, args, [str(data), DataSetEntry(data, name="again")], str(data))
    trainer.train()
    trainer.save_model()
    text = (tmp_path / "run" / "README.md").read_text()
    assert "Data: `pairs.jsonl`." in text and (tmp_path / "run" / "loss.png").stat().st_size > 1000
    assert str(tmp_path) not in text
    passages = [{"text": f"{row['query']}. It is so. {row['query']} again. And then more of it."} for row in PAIRS]
    args = arguments(LlaraTrainingArguments, tmp_path / "llara", max_steps=1, stop_words=["english", str(words)])
    llara = LlaraTrainer(build("llara"), args, passages)
    llara.train()
    llara.save_model()
    text = (tmp_path / "llara" / "README.md").read_text()
    assert "| stop_words | english, words.txt |" in text and str(tmp_path) not in text and "Data:" not in text


def test_data_in_words(tmp_path):
    def facts(source):
        return data_facts(plain_sources(source))

    (tmp_path / "mix.yaml").write_text("- data: user/one\n  revision: v2\n- data: user/two\n")
    entry = DataSetEntry("user/pairs", revision="abc")
    assert facts(entry) == {"data": ["user/pairs, revision abc"], "datasets": ["user/pairs"]}
    assert facts(str(tmp_path / "mix.yaml")) == {
        "data": ["user/one, revision v2", "user/two"], "datasets": ["user/one", "user/two"],
    }  # fmt: skip
    assert facts({"a": tmp_path / "a.jsonl", "b": "user/b"}) == {
        "data": ["a.jsonl", "user/b"],
        "datasets": ["user/b"],
    }
    assert facts(PAIRS) == facts(None) == facts(Dataset.from_list([{"a": 1}])) == {}
    from_hub = Dataset.from_list([{"a": 1}])
    from_hub.info.download_checksums = {"hf://datasets/user/c@0123abc/data/train.parquet": {}}
    assert facts(from_hub) == {"data": ["user/c, revision 0123abc"], "datasets": ["user/c"]}


def test_facts_are_texts_or_lists_of_them(tmp_path):
    card = ModelCard.load(write_card(fake_model(), tmp_path, datasets=("user/a", "user/b")))
    assert card.data.datasets == ["user/a", "user/b"]
    for facts in ({"base_model": ["a/b", "c/d"]}, {"license": 3}, {"datasets": [1]}):
        with pytest.raises(TypeError, match=rf"{next(iter(facts))} is .* but must be a string"):
            write_card(fake_model(), tmp_path, **facts)
