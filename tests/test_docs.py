"""The Python that the documentation shows runs, on tiny models in place of those of the Hub."""

import re
from pathlib import Path

import pytest

from modeling_biencoder import BiEncoderModel
from tests.loopback_hub.fixtures import hub as hub
from tests.tiny import TEXT, tiny_backbone, tiny_tokenizer

ROOT = Path(__file__).parent.parent
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
SMALLER = {"context_window_size=2048": "context_window_size=256", "max_new_tokens=1000": "max_new_tokens=70"}


def python_blocks(file: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", file.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", ["docs/self_retrieval.md", "docs/llara.md", "docs/hub.md"])
def test_the_blocks_of_a_page_run_one_after_the_other(name, tmp_path, monkeypatch, hub):
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    for folder in (tmp_path / "Qwen" / "Qwen3-0.6B", tmp_path / "backbone"):
        tiny_backbone("qwen").save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    BiEncoderModel.from_backbone(str(tmp_path / "backbone")).save_pretrained(tmp_path / "runs" / "biencoder")
    (tmp_path / "long.txt").write_text(TEXT * 20, encoding="utf-8")
    blocks = python_blocks(ROOT / name)
    assert len(blocks) >= 3
    namespace: dict = {}
    for block in blocks:
        for text, smaller in SMALLER.items():
            block = block.replace(text, smaller)
        exec(compile(block, name, "exec"), namespace)
