"""The most tokens that a backbone takes: all of its positions work, and one more is refused before work starts."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_biencoder import BiEncoderConfig

SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 40,
}
OF_ONE_FAMILY = {
    "layoutlmv3": {"coordinate_size": 2, "shape_size": 4},
    "lilt": {"hidden_size": 24},
    "longformer": {"attention_window": 4},
    "luke": {"entity_vocab_size": 5, "entity_emb_size": 16},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "xmod": {"languages": ["en"], "default_language": "en"},
}
FAMILIES = {
    "roberta": 18, "xlm-roberta": 18, "xlm-roberta-xl": 18, "camembert": 18, "mpnet": 18, "data2vec-text": 18,
    "ibert": 18, "roberta-prelayernorm": 18, "luke": 18, "longformer": 18, "xmod": 18,
    "esm": 18, "layoutlmv3": 18, "lilt": 18, "markuplm": 18,
    "bert": 20, "electra": 20, "distilbert": 20, "opt": 20, "gpt2": 20,
}  # fmt: skip


def backbone_config(family: str):
    extra = OF_ONE_FAMILY.get(family, {})
    return AutoConfig.for_model(family, **{**SHAPE, **extra}, max_position_embeddings=20, pad_token_id=1)


def test_rotary_positions_are_not_counted_from_padding() -> None:
    settings = {**SHAPE, "max_position_embeddings": 20, "pad_token_id": 1, "position_embedding_type": "rotary"}
    assert BiEncoderConfig(text_config=AutoConfig.for_model("esm", **settings)).max_length == 20


@pytest.mark.parametrize(("family", "positions"), FAMILIES.items())
def test_every_position_works_and_no_more(family: str, positions: int) -> None:
    text_config = backbone_config(family)
    config = BiEncoderConfig(text_config=text_config)
    assert config.max_positions == config.max_length == positions
    with pytest.raises(ValueError, match=f"max_length={positions + 1} .* use at most {positions}"):
        BiEncoderConfig(text_config=text_config, max_length=positions + 1)
    model = AutoModel.from_config(text_config).eval()
    ids = torch.full((2, positions), 5)
    with torch.no_grad():
        assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.isfinite().all()
        with pytest.raises((IndexError, RuntimeError)):
            longer = torch.full((2, positions + 1), 5)
            model(input_ids=longer, attention_mask=torch.ones_like(longer))
