"""SelfRetrievalConfig: a value of the wrong type or out of its range is refused, and named."""

import pytest
from transformers import MistralConfig, Phi3Config, Qwen2Config

from modeling_srlm import SelfRetrievalConfig, SelfRetrievalLM, positions_srlm
from tests.support.reuse import SETTINGS, backbone
from tests.support.tiny import random_ids


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"key_nmu": 2}, ValueError, "SelfRetrievalConfig has no keyword 'key_nmu': did you mean 'key_num'"),
        ({"retrieval_method": "bm26"}, ValueError, "retrieval_method='bm26' is not known: .*Did you mean 'bm25'"),
        ({"key_num": 0}, ValueError, "key_num=0 must be at least 1"),
        ({"key_num": True}, TypeError, "key_num=True must be a whole number"),
        ({"key_num": "2"}, TypeError, "key_num='2' must be a whole number"),
        ({"chunk_size": 2.5}, TypeError, "chunk_size=2.5 must be a whole number"),
        ({"target_size": float("nan")}, TypeError, "target_size=nan must be None or a whole number"),
        ({"fusion_constant": None}, TypeError, "fusion_constant=None must be a whole number"),
        ({"add_key_continuation": 1}, TypeError, "add_key_continuation=1 must be True or False"),
        ({"add_bos": "no"}, TypeError, "add_bos='no' must be True or False"),
        ({"bm25_k1": float("inf")}, ValueError, "bm25_k1=inf must be a finite number"),
        ({"bm25_b": "0.75"}, TypeError, "bm25_b='0.75' must be a finite number"),
        ({"add_sep": "\n"}, TypeError, "must be None or a list of whole numbers, not str"),
        ({"add_sep": []}, ValueError, "at least 1 and fewer than a value's 128 tokens"),
        ({"add_sep": [3, -1]}, ValueError, "add_sep holds -1"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        SelfRetrievalConfig(**settings)


def test_a_value_that_was_changed_is_checked_again():
    config = SelfRetrievalConfig(context_window_size=256, chunk_size=16, key_num=2, target_size=None)
    config.key_num = 2.0
    with pytest.raises(TypeError, match=r"key_num=2\.0 must be a whole number"):
        config.check()


@pytest.mark.parametrize(
    ("settings", "needed"),
    [({"key_num": 2}, 128), ({"key_num": 2, "reuse_states": True, "num_sink_tokens": 4}, 148)],
    ids=["exact", "kept states"],
)
def test_an_input_stays_on_one_side_of_longrope(settings, needed):
    """Beyond `original_max_position_embeddings` it turns the first tokens by other angles, too."""
    rope = {
        "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]
    }  # fmt: skip

    def configure(limit: int) -> SelfRetrievalConfig:
        backbone = Phi3Config(
            hidden_size=32, num_attention_heads=4, max_position_embeddings=2048, bos_token_id=0, eos_token_id=1,
            pad_token_id=2, original_max_position_embeddings=limit,
            rope_parameters={**rope, "original_max_position_embeddings": limit},
        )  # fmt: skip
        return SelfRetrievalConfig(text_config=backbone, context_window_size=64, chunk_size=16, **settings)

    configure(needed)
    with pytest.raises(ValueError, match=f"need {needed} positions; the backbone has {needed - 1} before its 'longr"):
        configure(needed - 1)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (MistralConfig, {}), (Phi3Config, {"pad_token_id": 0}),
        (Qwen2Config, {"use_sliding_window": True, "max_window_layers": 0}),
    ],
)  # fmt: skip
def test_kept_states_need_a_layer_that_sees_past_the_window(kind, given, monkeypatch):
    """Of a window of 64 tokens: layers that see none of what stands before it, a part, and all."""
    warned: list[str] = []
    monkeypatch.setattr(positions_srlm.logger, "warning_once", warned.append)

    def configure(sliding_window: int, **settings: object) -> SelfRetrievalConfig:
        text_config = kind(sliding_window=sliding_window, **given)
        return SelfRetrievalConfig(text_config=text_config, **{**SETTINGS, **settings})

    with pytest.raises(ValueError, match=r"window of 64 tokens, .* sliding_window of 65: .* no effect"):
        configure(65)
    configure(65, retrieval_method="no")
    configure(65, reuse_states=False)
    configure(148)
    assert not warned
    configure(66)
    assert "sliding_window of 66" in warned[0] and "take 148" in warned[0]


def test_candidates_need_such_a_layer_whatever_is_retrieved():
    ids, losses = random_ids(1, 200), {}
    for method in ("no", "recent"):
        model = sliding(66, retrieval_method=method)
        losses[method] = model(ids, labels=ids).loss.item()
    assert losses["no"] != pytest.approx(losses["recent"], rel=1e-6)  # a token of what is retrieved makes a difference
    with pytest.raises(ValueError, match="looking back would have no effect"):
        sliding(65, retrieval_method="no").score_candidates(ids, labels=ids)


def sliding(window: int, **settings: object) -> SelfRetrievalLM:
    return SelfRetrievalLM.from_components(backbone("mistral", sliding_window=window), **{**SETTINGS, **settings})
