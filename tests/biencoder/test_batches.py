"""What a batch of queries and passages may hold beside ids and mask, and in which mode a model is left."""

import pytest
import torch
from peft import LoraConfig
from transformers import CONFIG_MAPPING, AutoModel, DynamicCache

from modeling_biencoder import BiEncoderModel
from tests.support.tiny import VOCABULARY_SIZE, random_ids, tiny_backbone, tiny_tokenizer
from trainers import add_adapter

QUERY = {"input_ids": random_ids(2, 9), "attention_mask": torch.tensor([[1] * 9, [1] * 4 + [0] * 5])}
PASSAGE = {"input_ids": random_ids(4, 7), "attention_mask": torch.ones(4, 7, dtype=torch.long)}


def model(family: str = "llama") -> BiEncoderModel:
    return BiEncoderModel.from_backbone(tiny_backbone(family, lm_head=False), tiny_tokenizer(), pooling="mean")


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({"attention_masks": QUERY["attention_mask"]}, TypeError, "no argument 'attention_masks'"),
        ({"length": torch.tensor([9, 4])}, TypeError, "no argument 'length'"),
        ({"position_ids": torch.arange(9)}, ValueError, r"'position_ids' of shape \(9,\)"),
        ({"past_key_values": torch.zeros(2, 9)}, TypeError, "past_key_values: an embedding is of a whole text"),
        ({"position_ids": [1]}, TypeError, "'position_ids' of type list"),
    ],
)
def test_what_is_not_of_the_batch_is_named(extra, error, message) -> None:
    with pytest.raises(error, match=message):
        model()(query={**QUERY, **extra}, passage=PASSAGE)


def test_a_cache_is_refused() -> None:
    with pytest.raises(TypeError, match="past_key_values: an embedding is of a whole text"):
        model()(**QUERY, past_key_values=DynamicCache())


@pytest.mark.parametrize("parts", [None, 1, 3])
@torch.no_grad()
def test_none_is_nothing_given(parts: int | None) -> None:
    bert = model("bert")
    expected = bert(query=QUERY, passage=PASSAGE, sub_batch_size=parts).loss
    passage = {**PASSAGE, "token_type_ids": None, "position_ids": None}
    torch.testing.assert_close(bert(query=QUERY, passage=passage, sub_batch_size=parts).loss, expected)


@pytest.mark.parametrize("left", [False, True])
@torch.no_grad()
def test_positions_for_all_rows_are_those_of_each(left: bool) -> None:
    gpt2, ids, mask = model("gpt2"), QUERY["input_ids"], QUERY["attention_mask"]
    mask = mask.flip(1) if left else mask
    places = torch.arange(3, 12)[None]
    expected = gpt2(ids, mask, position_ids=places.expand_as(ids)).embeddings
    torch.testing.assert_close(gpt2(ids, mask, position_ids=places).embeddings, expected)
    batch = {"input_ids": ids, "attention_mask": mask}
    for parts in (None, 1):
        found = gpt2(query=batch, passage=batch, sub_batch_size=parts, position_ids=places, return_loss=False)
        torch.testing.assert_close(found.q_reps, expected)


def test_encode_leaves_each_module_in_its_mode() -> None:
    llama = model().train()
    llama.backbone.layers[0].eval()
    before = {name: module.training for name, module in llama.named_modules()}
    llama.encode(["one", "two"])
    assert {name: module.training for name, module in llama.named_modules()} == before


@torch.no_grad()
def test_a_pooler_that_the_backbone_cannot_do_without_stays(tmp_path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CONFIG_MAPPING["layoutlm"](**sizes, vocab_size=VOCABULARY_SIZE, pad_token_id=2)
    layoutlm = BiEncoderModel.from_backbone(AutoModel.from_config(config), tiny_tokenizer(), pooling="mean").eval()
    expected = layoutlm.encode(["one", "two and three"])
    assert not any(weight.requires_grad for weight in layoutlm.backbone.pooler.parameters())
    layoutlm.save_pretrained(tmp_path)
    torch.testing.assert_close(BiEncoderModel.from_pretrained(tmp_path).encode(["one", "two and three"]), expected)
    assert model("bert").backbone.pooler is None


def test_an_adapter_that_would_train_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="alora_invocation_tokens: an activated LoRA"):
        add_adapter(model(), LoraConfig(r=2, target_modules=["q_proj"], alora_invocation_tokens=[5]))
