"""Models that have a configuration alone, for their cards, and what a person wrote into one."""

import struct
from types import SimpleNamespace

BACKBONE = {"model_type": "llama", "name_or_path": "meta-llama/Llama-3.2-1B", "hidden_size": 32}
SETTINGS = {
    "lookback_biencoder": {
        "hidden_size": 32, "pooling": "mean_last_k", "pooling_k": 8, "normalize": True, "bidirectional": False,
        "temperature": 0.02,
        "prompts": {"default": {"query": 'a "quote" | `tick`\n', "passage": ""}},
    },
    "lookback_llara": {
        "num_summary_tokens": 8, "num_predict_tokens": 4, "summarize_prompt": "in eight words: <s1>",
        "predict_prompt": None, "loss_weighting": "fixed", "ar_loss_weight": 1.0, "bow_loss_weight": 0.1,
    },
    "lookback_srlm": {
        "retriever_config": None, "retrieval_method": "bm25", "key_num": 4, "order_method": "sequential",
        "integrate_method": "concat", "context_window_size": 2048, "chunk_size": 64,
    },
}  # fmt: skip
EMPTY = struct.pack("<Q", 2) + b"{}"  # safetensors without a tensor
PERSON = "My own words about this model."


def fake_model(model_type: str = "lookback_biencoder", **backbone: object) -> SimpleNamespace:
    config = SimpleNamespace(
        model_type=model_type,
        text_config=SimpleNamespace(**{**BACKBONE, **backbone}),
        **SETTINGS.get(model_type, {}),
    )
    return SimpleNamespace(
        config=config, num_parameters=lambda: 1_234_567, name_or_path="", _hf_peft_config_loaded=False
    )
