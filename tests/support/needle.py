"""What the tests of the needle test share: texts, a model that looks back, and answers made up."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers import trainers as tokenizer_trainers
from transformers import PreTrainedTokenizerFast

from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers.needle.results import NeedleResults
from trainers.needle.settings import Cell

TEXTS = [f"Line {number} of the library is about lantern {number * 7}.\n" * 3 for number in range(400)]
SETTINGS = {"context_window_size": 256, "chunk_size": 32, "key_num": 2, "target_size": 32, "retrieval_method": "bm25"}


def srlm(family: str = "llama", **settings: Any) -> SelfRetrievalLM:
    return SelfRetrievalLM.from_components(tiny_backbone(family), tiny_tokenizer(), **{**SETTINGS, **settings})


def tokenizer_with_a_blank() -> PreTrainedTokenizerFast:
    """As Llama 2's: a blank is put before every text, and taken away again when it is decoded."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<s>", "</s>", "<pad>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = tokenizer_trainers.BpeTrainer(vocab_size=320, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([line for text in TEXTS[:9] for line in text.split("\n")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")


def answered(cell: Cell, right: int, of: int, seen: bool | None = True, text: str = "no") -> list[dict[str, Any]]:
    """Rows as `NeedleTest.answer` gives them: `right` of them right."""
    return [
        {**cell._asdict(), "sample": number, "key": "red-fox", "value": "1234567", "correct": number < right,
         "answer": " 1234567." if number < right else text, "seen": seen, "prompt": "0"}
        for number in range(of)
    ]  # fmt: skip


def made_up(hostile: str = "no") -> NeedleResults:
    """Two lengths, two depths, two methods, of which one cannot read the longer text."""
    results = NeedleResults({"seed": 0})
    for length, depth, right in ((2048, 0, 1), (2048, 100, 4), (32768, 0, 0), (32768, 100, 2)):
        results.answers += answered(Cell("bm25", length, depth, 1), right, 4, seen=depth == 100, text=hostile)
    for depth in (0, 100):
        results.answers += answered(Cell("alone", 2048, depth, 1), 4, 4)
        results.impossible[Cell("alone", 32768, depth, 1)] = "longer than the 8,192 positions of the model alone"
    return results
