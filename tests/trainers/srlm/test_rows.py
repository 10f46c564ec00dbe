import pytest

from tests.support.tiny import tiny_tokenizer, with_special_tokens
from trainers.data.sources import load_tables
from trainers.srlm.rows import cut_blocks, load_chats, tokenize_documents

CHAT = {"history": ["Speaker 1: hi\nSpeaker 2: ho"], "query": "Where?", "answers": ["On the island."], "task": "chat"}


@pytest.mark.parametrize("streaming", [False, True])
def test_blocks_hold_the_document_and_label_its_ends(streaming):
    tokenizer = with_special_tokens()  # which are no part of a document
    texts = ["the copper lantern " * 12, "hi", "island"]
    (rows,) = load_tables([{"text": text} for text in texts], streaming=streaming)
    blocks = list(tokenize_documents(rows, tokenizer, document_length=10, target_size=4))
    ids = tiny_tokenizer()(texts)["input_ids"]
    assert [block["input_ids"] for block in blocks] == [block for row in ids for block in cut_blocks(row, 10, 4)]
    for block in blocks:
        scored = min(4, len(block["input_ids"]) - 1)
        assert block["labels"] == [-100] * (len(block["input_ids"]) - scored) + block["input_ids"][-scored:]
    assert {len(block["input_ids"]) for block in blocks} > {10}


def test_short_remainders_are_dropped_short_documents_are_not():
    assert cut_blocks(list(range(13)), 5, 3) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert cut_blocks(list(range(14)), 5, 3) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13]]
    assert cut_blocks([1, 2], 5, 3) == [[1, 2]]
    assert cut_blocks([1], 5, 3) == []


def test_bad_rows_and_sizes_are_named():
    tokenizer = tiny_tokenizer()
    for rows, message in [
        ([{"text": "a"}, {"text": " "}], "Row 1 .*'text' is ' '"),
        ([{"body": "a"}], "Row 0 .*'text' is missing"),
    ]:
        with pytest.raises(ValueError, match=message):
            tokenize_documents(load_tables(rows)[0], tokenizer, 8, 2)
    with pytest.raises(ValueError, match="target_size=8 must be at least 1 and less than document_length=8"):
        tokenize_documents(load_tables([{"text": "a"}])[0], tokenizer, 8, 8)


def test_chat_rows():
    tokenizer = tiny_tokenizer()
    (example,) = load_chats(load_tables([CHAT])[0], tokenizer)
    answer_length = len(tokenizer("On the island.")["input_ids"])
    expected = {"query": "Where?", "history": CHAT["history"], "answer": "On the island."}
    assert example == {**expected, "answer_length": answer_length}
    for field in ("history", "query", "answers"):
        with pytest.raises(ValueError, match=f"Row 1 .*'{field}' is"):
            load_chats(load_tables([CHAT, {**CHAT, field: None}])[0], tokenizer)
