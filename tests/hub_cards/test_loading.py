"""Loading keywords: one list for all families, and a repo's own code runs only where the caller says so."""

import json

import pytest
import torch
from safetensors.torch import save_file

from hub_cards.travelling.loading import LOADING_KEYWORDS, backbone_keywords, split_keywords, tokenizer_keywords
from modeling_biencoder import BiEncoderModel
from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import tiny_backbone, tiny_tokenizer


@pytest.mark.cases(4)
@pytest.mark.parametrize("keyword", LOADING_KEYWORDS)
@pytest.mark.parametrize("family", [BiEncoderModel, LlaraForPreTraining])
def test_every_family_knows_every_loading_keyword(family, keyword):
    value = "sdpa" if keyword == "attn_implementation" else None
    with pytest.raises(ValueError, match=rf"'{keyword}'\] (have no meaning for a model|are for loading)"):
        family.from_backbone(tiny_backbone(), tiny_tokenizer(), **{keyword: value})


def test_keywords_are_of_the_configuration_or_for_loading():
    assert split_keywords({"pooling": "cls", "token": "t"}, ["pooling"], "build") == (
        {"pooling": "cls"},
        {"token": "t"},
    )
    with pytest.raises(ValueError, match="build has no keyword 'tokken': did you mean 'token'"):
        split_keywords({"tokken": "t"}, ["pooling"], "build")


def test_what_holds_where_the_caller_has_no_word_on_it():
    assert backbone_keywords({"revision": "a"}) == {
        "use_safetensors": True, "trust_remote_code": False, "revision": "a",
    }  # fmt: skip
    own = {"use_safetensors": False, "trust_remote_code": True}
    assert backbone_keywords(own) == own
    assert tokenizer_keywords({"dtype": "auto", "revision": "a"}) == {"trust_remote_code": False, "revision": "a"}
    assert tokenizer_keywords({"trust_remote_code": True}) == {"trust_remote_code": True}


CALLS = {
    "bi-encoder": lambda repo: BiEncoderModel.from_backbone(repo, tiny_tokenizer()),
    "llara": lambda repo: LlaraForPreTraining.from_backbone(repo, tiny_tokenizer()),
    "srlm": lambda repo: SelfRetrievalLM.from_components(repo, tiny_tokenizer()),
    "srlm's retriever": lambda repo: SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), repo),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_repos_own_code_is_neither_run_nor_asked_about(call, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("asked at the terminal"))
    classes = {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoModelForCausalLM": "code.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of_its_own", "auto_map": classes}))
    (tmp_path / "code.py").write_text("raise SystemExit('the code of the repo ran')\n")
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        call(str(tmp_path))
