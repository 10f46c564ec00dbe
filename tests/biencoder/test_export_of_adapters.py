"""sentence-transformers and a repo that holds an adapter alone: it goes onto the base it names, or says what to do."""

import json

import pytest
import torch
from peft import LoraConfig

from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import add_adapter, load_adapted, merge_adapter
from trainers.models.convert import biencoder_from_llara

SentenceTransformer = pytest.importorskip("sentence_transformers").SentenceTransformer
TEXTS = ["the copper lantern", "A query finds the passage that answers it. " * 4, ""]
FIELDS = {"pooling": "mean_last_k", "prompts": {"default": {"query": "q: ", "query_suffix": "?"}}}


def plain(folder, **config) -> str:
    tiny_backbone(lm_head=False, **config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def adapted(model: BiEncoderModel, folder) -> BiEncoderModel:
    """The model with an adapter that changes what it computes, saved to the folder."""
    torch.manual_seed(7)
    add_adapter(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.eval().save_pretrained(folder)
    return model


@pytest.mark.cases(1)
@pytest.mark.parametrize("base", ["biencoder", "plain"])
def test_an_adapter_alone_goes_onto_its_base(base, tmp_path):
    source = plain(tmp_path / "lm")
    if base == "biencoder":
        BiEncoderModel.from_backbone(source, pooling="mean").save_pretrained(tmp_path / "base")
        model = BiEncoderModel.from_pretrained(tmp_path / "base", **FIELDS)
    else:
        model = BiEncoderModel.from_backbone(source, **FIELDS)
    before = model.encode(TEXTS)
    folder = tmp_path / f"adapter_on_{base}"
    expected = adapted(model, folder).encode(TEXTS)
    assert (expected - before).abs().max() > 1e-2
    assert not (folder / "model.safetensors").exists()
    theirs = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    torch.testing.assert_close(theirs.encode_query(TEXTS, convert_to_tensor=True), expected, rtol=1e-6, atol=1e-6)
    passages = theirs.encode_document(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(passages, model.encode(TEXTS, role="passage"), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"carries an adapter.*merge_adapter"):
        model.export_sentence_transformers(tmp_path / "out")
    merged = merge_adapter(load_adapted(folder))
    merged.export_sentence_transformers(tmp_path / f"merged_on_{base}")
    theirs = SentenceTransformer(str(tmp_path / f"merged_on_{base}"), trust_remote_code=True, device="cpu")
    torch.testing.assert_close(
        theirs.encode_query(TEXTS, convert_to_tensor=True), merged.encode(TEXTS), rtol=1e-6, atol=1e-6
    )


def of_llara(folder):
    LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer()).save_pretrained(folder / "base")
    adapted(biencoder_from_llara(LlaraForPreTraining.from_pretrained(folder / "base")), folder / "on_llara")
    return folder / "on_llara"


def of_nothing(folder):
    adapted(BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), **FIELDS), folder / "on_none")
    return folder / "on_none"


def of_more_tokens(folder):
    adapted(BiEncoderModel.from_backbone(plain(folder / "lm"), **FIELDS), folder / "on_fewer")
    config = json.loads((folder / "on_fewer/config.json").read_text())
    config["text_config"]["vocab_size"] += 3
    (folder / "on_fewer/config.json").write_text(json.dumps(config))
    return folder / "on_fewer"


REFUSED = {
    "made of '.*base', a lookback_llara: merge it": of_llara,
    "does not name the model that it was made for": of_nothing,
    "3 tokens were added: merge it": of_more_tokens,
}


@pytest.mark.cases(1)
@pytest.mark.parametrize("said", REFUSED)
def test_an_adapter_whose_base_has_to_be_built_says_so(said, tmp_path):
    folder = REFUSED[said](tmp_path)
    with pytest.raises(ValueError, match=said):
        SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
