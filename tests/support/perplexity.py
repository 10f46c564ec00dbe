"""What the tests of `lookback perplexity` share: chat rows, settings of the model, and a page's data."""

import json
import re
from typing import Any

SETTINGS = {"context_window_size": 128, "chunk_size": 16, "key_num": 2, "retrieval_method": "bm25"}
ROWS = [
    {"history": ["the candle", "the copper lantern on the island", "hammer"], "query": "where is the copper lantern?",
     "answers": ["on the island", "elsewhere"]},
    {"history": [], "query": "who reads?", "answers": ["the library reads long documents and looks back at them"]},
    {"history": ["a query", "a passage"], "query": "what answers a query?", "answers": ["the passage"]},
    {"history": ["one"], "query": "the hammer?", "answers": ["next to it"]},
    {"history": ["the island", "long documents", "a candle", "answers"], "query": "which ones?", "answers": ["long"]},
]  # fmt: skip
HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='broken()'> <!-- {{ 1 }} & é 語 \u2028 "


def data_of(html: str) -> Any:
    """The page's data as a browser reads them: up to the first end tag."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script', html, re.DOTALL)[1])
