"""How many cases a property test draws: LOOKBACK_CASES of them, by default few and always the same."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FEW = 25
CASES = int(os.environ.get("LOOKBACK_CASES", FEW))
TOKENS = st.integers(3, 49)  # of the tiny models; 0 to 2 are special
SIZES = {
    "llama": {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1},
    "gpt2": {"n_embd": 8, "n_head": 2},
    "opt": {"hidden_size": 8, "word_embed_proj_dim": 8, "ffn_dim": 16, "num_attention_heads": 2},
    "bert": {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2},
}  # fmt: skip
SIZES |= {family: SIZES["llama"] for family in ("qwen", "mistral")}

# No data base: failures print the case, and nothing is left behind in the tree.
drawn = settings(
    max_examples=CASES, derandomize=CASES == FEW, deadline=None, database=None, print_blob=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def tiny(family: str, layers: int = 1) -> dict[str, object]:
    """Settings of `tiny_backbone` for a model of width 8 and 50 tokens."""
    return {**SIZES[family], "vocab_size": 50, "n_layer" if family == "gpt2" else "num_hidden_layers": layers}
