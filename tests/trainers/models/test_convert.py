"""From LLaRA to a bi-encoder: our own models, plain backbones, a LoRA, and checkpoints as they were published."""

import json
import sys

import pytest
import torch
from peft import LoraConfig, PeftModel
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers import trainers as bpe_trainers
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining, build_row
from tests.support import quick_first
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer
from tests.support.training import PASSAGES, SENTENCES, arguments
from trainers import LlaraTrainer, LlaraTrainingArguments, cli
from trainers.models.convert import biencoder_from_llara
from trainers.models.load import load_as_biencoder

TEXTS = [*SENTENCES, "", "x", 'a "quoted" copper, lantern"', "of <|summarize_3|> and <|predict_8|>", "<|predict_1|>"]


@pytest.fixture
def convert(monkeypatch, tmp_path):
    def call(*options: str) -> BiEncoderModel:
        output = tmp_path / "biencoder"
        monkeypatch.setattr(sys, "argv", ["lookback", "convert", "--output", str(output), *options])
        cli.main()
        return BiEncoderModel.from_pretrained(output)

    return call


@torch.no_grad()
def states_in_rows(model: LlaraForPreTraining, texts: list[str]) -> dict[str, torch.Tensor]:
    """(texts, d) for each role: the mean state at its prompt's special tokens in the rows that LLaRA trains on."""
    found = {"query": [], "passage": []}
    for text in texts:
        row = build_row(model.config, model.tokenizer(text, add_special_tokens=False)["input_ids"])
        ids = torch.tensor([row["input_ids"]])
        states = model(ids, output_hidden_states=True).hidden_states[-1][0]
        found["query"].append(states[-8:].mean(0))
        end = -len(model.config.predict_prompt_ids)
        found["passage"].append(states[end - 8 : end].mean(0))
    return {role: torch.nn.functional.normalize(torch.stack(rows), dim=-1) for role, rows in found.items()}


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("form", ["model", "backbone"])
def test_embeddings_are_the_states_of_the_training_rows(tmp_path, convert, family, form):
    llara = LlaraForPreTraining.from_backbone(tiny_backbone(family), tiny_tokenizer())
    save = llara.save_pretrained if form == "model" else llara.save_backbone
    save(tmp_path / "llara")
    biencoder = convert("--model", str(tmp_path / "llara"), "--temperature", "0.05")
    assert biencoder.config.temperature == 0.05
    for role, wanted in states_in_rows(llara, TEXTS).items():
        torch.testing.assert_close(biencoder.encode(TEXTS, role=role), wanted, rtol=0, atol=1e-5)
    apart = biencoder.encode(TEXTS, role="query") - biencoder.encode(TEXTS, role="passage")
    assert apart.abs().max() > 1e-2


def test_how_many_special_tokens_a_saved_backbone_has(tmp_path):
    """It is in its configuration, which plain transformers keeps: its tokenizer may know more, from before."""
    LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer()).save_backbone(tmp_path / "eight")
    four = LlaraForPreTraining.from_backbone(tmp_path / "eight", num_summary_tokens=4, num_predict_tokens=4)
    four.save_backbone(tmp_path / "four")
    assert vars(four.backbone.config)["llara_num_summary_tokens"] == 8  # as it was loaded
    AutoModelForCausalLM.from_pretrained(tmp_path / "four").save_pretrained(tmp_path / "again")
    AutoTokenizer.from_pretrained(tmp_path / "four").save_pretrained(tmp_path / "again")
    for folder in ("four", "again"):
        found = load_as_biencoder(str(tmp_path / folder))
        assert found.config.prompts == {"default": four.to_biencoder()["prompts"]["default"]}
        assert found.config.pooling_k == 4
    uneven = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer(), num_predict_tokens=3)
    uneven.save_backbone(tmp_path / "uneven")
    config = tmp_path / "uneven" / "config.json"
    written = json.loads(config.read_text())
    assert (written.pop("llara_num_summary_tokens"), written.pop("llara_num_predict_tokens")) == (8, 3)
    with pytest.raises(ValueError, match="have 8 and 3 special tokens"):
        load_as_biencoder(str(tmp_path / "uneven"))
    config.write_text(json.dumps(written))  # as an older version saved it: the tokens are counted
    with pytest.raises(ValueError, match="have 8 and 3 special tokens"):
        load_as_biencoder(str(tmp_path / "uneven"))


def test_a_tokenizer_that_does_not_know_the_prompts_is_refused():
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
    with pytest.raises(ValueError, match="ends the summarize prompt with the ids"):
        biencoder_from_llara(model, tiny_tokenizer())


@pytest.mark.slow
@pytest.mark.parametrize("base", quick_first(["llara", "backbone"]))
def test_a_lora_is_merged_into_its_backbone(tmp_path, convert, base):
    tiny_backbone().save_pretrained(tmp_path / "backbone")
    tiny_tokenizer().save_pretrained(tmp_path / "backbone")
    LlaraForPreTraining.from_backbone(tmp_path / "backbone").save_pretrained(tmp_path / "llara")
    args = arguments(LlaraTrainingArguments, tmp_path / "run", max_length=128, learning_rate=0.1)
    trainer = LlaraTrainer(tmp_path / base, args, PASSAGES, peft_config=LoraConfig(r=4))
    untrained = states_in_rows(trainer.model.eval(), SENTENCES)
    trainer.train()
    trainer.save_model()
    biencoder = convert("--model", str(tmp_path / "run"), "--backbone", str(tmp_path / base))
    for role, wanted in states_in_rows(trainer.model.eval(), SENTENCES).items():
        torch.testing.assert_close(biencoder.encode(SENTENCES, role=role), wanted, rtol=0, atol=1e-5)
        assert (wanted - untrained[role]).abs().max() > 1e-2
    by_name = load_as_biencoder(str(tmp_path / "run"))  # the adapter says what it was trained on
    assert torch.equal(by_name.encode(SENTENCES), biencoder.encode(SENTENCES))


@pytest.mark.cases(1)
@pytest.mark.parametrize("tied", [False, True])
def test_a_merge_writes_the_new_tokens_rows_and_no_others(tmp_path, tied):
    """Exactly: embeddings and head get the trained rows, bit by bit, and keep the rest."""

    def build() -> LlaraForPreTraining:
        return LlaraForPreTraining.from_backbone(tiny_backbone(tie_word_embeddings=tied), tiny_tokenizer())

    args = arguments(LlaraTrainingArguments, tmp_path, max_length=128)
    trainer = LlaraTrainer(build(), args, PASSAGES, peft_config=LoraConfig(r=4))
    trainer.train()
    trainer.save_model()
    before, merged = build(), PeftModel.from_pretrained(build(), str(tmp_path)).merge_and_unload()
    new = trainer.new_token_ids()
    others = [i for i in range(before.config.text_config.vocab_size) if i not in new]
    for get in ("get_input_embeddings", "get_output_embeddings"):
        weight, untrained = getattr(merged, get)().weight, getattr(before, get)().weight
        adapter = getattr(trainer.model, get)().token_adapter
        assert torch.equal(weight[others], untrained[others])
        assert torch.equal(weight[new], adapter.trainable_tokens_delta["default"])
        assert (weight[new] != untrained[new]).any(1).all()


def published_tokenizer() -> LlamaTokenizer:
    """A SentencePiece-like BPE that begins with <s>, and <s1> to <s16> at ids in no order, as in LLARA-pretrain."""
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trained.train_from_iterator(
        [TEXT + ' ", : "'], bpe_trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    tokenizer = LlamaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    order = (12, 9, 2, 10, 15, 3, 16, 1, 5, 11, 14, 4, 6, 13, 7, 8)
    tokenizer.add_tokens([f"<s{i}>" for i in order], special_tokens=True)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.pad_token = "</s>"
    return tokenizer


@torch.no_grad()
def as_on_the_card(folder, texts: list[str], suffix: str) -> torch.Tensor:
    """Prefix, text and suffix each tokenised alone, padded on the left; mean of the last 8 states, normalised."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    prefix_ids, suffix_ids = tokenizer('"')["input_ids"], tokenizer(suffix)["input_ids"][1:]  # without a second <s>
    texts_ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = [{"input_ids": prefix_ids + ids + suffix_ids} for ids in texts_ids]
    batch = tokenizer.pad(rows, padding_side="left", pad_to_multiple_of=8, return_tensors="pt")
    states = model(**batch).last_hidden_state[:, -8:]
    return torch.nn.functional.normalize(states.mean(1), dim=-1)


def test_a_published_checkpoint_embeds_as_on_its_card(tmp_path, convert):
    tokenizer = published_tokenizer()
    tiny_backbone("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "published")
    tokenizer.save_pretrained(tmp_path / "published")
    assert json.loads((tmp_path / "published" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    biencoder = convert("--model", str(tmp_path / "published"))
    texts = [text for text in TEXTS if text]
    suffixes = {
        "query": '", predict the following passage within eight words: <s9><s10><s11><s12><s13><s14><s15><s16>',
        "passage": '", summarize the above passage within eight words: <s1><s2><s3><s4><s5><s6><s7><s8>',
    }
    for role, suffix in suffixes.items():
        wanted = as_on_the_card(tmp_path / "published", texts, suffix)
        torch.testing.assert_close(biencoder.encode(texts, role=role), wanted, rtol=0, atol=1e-5)
    # Pretraining goes on with the same tokens.
    llara = LlaraForPreTraining.from_backbone(tmp_path / "published")
    assert len(llara.tokenizer) == len(tokenizer)
    assert llara.config.predict_token_ids == tokenizer.convert_tokens_to_ids([f"<s{i}>" for i in range(9, 17)])


def test_what_cannot_be_converted(tmp_path):
    tiny_backbone().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no special tokens of LLaRA's prompts"):
        load_as_biencoder(str(tmp_path))
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    LlaraForPreTraining.from_backbone(tiny_backbone(), tokenizer).save_pretrained(tmp_path / "ends")
    with pytest.raises(ValueError, match="add_eos_token=False"):
        load_as_biencoder(str(tmp_path / "ends"))
