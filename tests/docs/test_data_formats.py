"""docs/data_formats.md says what each command reads and writes; here its own examples go to the readers."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from modeling_llara import LlaraForPreTraining
from modeling_srlm import SelfRetrievalLM
from tests.support.pages import table_of, text_of
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer
from trainers import SelfRetrievalTrainer, SelfRetrievalTrainingArguments, load_biencoder_rows, load_retrieval_data
from trainers.biencoder.columns import ABOUT
from trainers.cli import run
from trainers.data.documents import document_table
from trainers.data.faithful import ParsedRows, load_faithful_rows
from trainers.data.texts import IdentifiedTexts
from trainers.feedback.documents import DocumentFeedback
from trainers.feedback.formats import read_question
from trainers.llara.rows import load_llara_rows
from trainers.mining.corpus import load_corpus
from trainers.mining.rows import QueryRows
from trainers.perplexity.data import read_chats, read_documents

PAGE = "docs/data_formats.md"
COMMANDS = ("pretrain", "finetune", "train-lm", "score", "mine", "perplexity", "encode", "evaluate")
LONG = TEXT * 6
# Without these others take their place, as the page says.
INSTEAD = {("query rows", "score"): {"pos"}, ("pairs and triplets", "finetune"): {"anchor", "positive"}}
# Their columns are found by name and type: one of another type is none of them, and is not refused.
BY_TYPE = ("pairs and triplets", "scored pairs")
Row = dict[str, object]


def examples() -> dict[str, Row]:
    """{format: the row that stands under its heading}; a text is made long enough for the readers of documents."""
    found = re.findall(r"^### (.+)\n\n```json\n(.+)\n```$", text_of(PAGE), flags=re.MULTILINE)
    return {name.lower(): json.loads(row) for name, row in found}


EXAMPLES = examples()
CELLS = [
    (re.search(r"\[(.+)\]", line["format"])[1], command, line[f"`{command}`"])
    for line in table_of(PAGE, "format")
    for command in COMMANDS
]


def test_the_table_has_every_format_and_every_command():
    assert {name for name, _, _ in CELLS} == {"plain text", *EXAMPLES}
    assert len(CELLS) == (1 + len(EXAMPLES)) * len(COMMANDS)


@pytest.fixture(scope="module")
def lm() -> SelfRetrievalLM:
    settings = {"retrieval_method": "bm25", "context_window_size": 32, "chunk_size": 8, "key_num": 1}
    return SelfRetrievalLM.from_components(tiny_backbone(), tokenizer=tiny_tokenizer(), **settings)


class Readers:
    """What each command reads a file with, as far as it gets without a model of its own."""

    def __init__(self, folder: Path, lm: SelfRetrievalLM):
        self.folder, self.lm, self.tokenizer = folder, lm, tiny_tokenizer()

    def pretrain(self, path: str, row: Row) -> None:
        list(load_llara_rows(path, self.tokenizer, room=64))

    def finetune(self, path: str, row: Row) -> None:
        list(load_biencoder_rows(path, group_size=1))

    def train_lm(self, path: str, row: Row) -> None:
        args = SelfRetrievalTrainingArguments(
            str(self.folder / "run"), document_length=32, target_size=8, use_cpu=True, report_to="none"
        )
        SelfRetrievalTrainer(self.lm, args, train_dataset=path)

    def score(self, path: str, row: Row) -> None:
        if "query" in row:
            for number, one in enumerate(load_faithful_rows(path)):
                read_question(one, number, None, "answer", 0)
        else:
            DocumentFeedback(self.lm, ParsedRows(document_table(path)))

    def mine(self, path: str, row: Row) -> None:
        if row.keys() & {"query", "anchor", "sentence1", "input", "input_ids", "query-id"}:
            QueryRows(load_faithful_rows(path))
        else:
            load_corpus(path)

    def perplexity(self, path: str, row: Row) -> None:
        if "history" in row:
            read_chats(path, self.tokenizer, None)
        else:
            read_documents(path, self.tokenizer, None, None)

    def encode(self, path: str, row: Row) -> None:
        IdentifiedTexts(path)

    def evaluate(self, path: str, row: Row) -> None:
        folder = self.folder / "beir"
        (folder / "qrels").mkdir(parents=True, exist_ok=True)
        text, judgement = EXAMPLES["texts"], EXAMPLES["judgements"]
        rows = {"corpus": text, "queries": {"_id": "q1", "text": "a query"}, "qrels/test": judgement}
        if "query-id" in row or "corpus-id" in row:
            rows["qrels/test"] = row
        else:
            rows["corpus"] = row
        for name, one in rows.items():
            (folder / f"{name}.jsonl").write_text(json.dumps(one) + "\n")
        if Path(path).suffix == ".txt":
            (folder / "corpus.jsonl").unlink()
        load_retrieval_data(folder)


@pytest.fixture
def read(tmp_path, lm) -> Callable[[str, Row], None]:
    """`read(command, row)`: the command's reader on a file of that row."""
    readers = Readers(tmp_path, lm)

    def read_row(command: str, row: Row) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n")
        getattr(readers, command.replace("-", "_"))(str(path), row)

    read_row.file = lambda command, path: getattr(readers, command.replace("-", "_"))(str(path), {})
    return read_row


def fields_of(cell: str) -> tuple[list[str], list[str]]:
    """(needed, not needed): what stands in brackets is not."""
    in_brackets = re.findall(r"\(([^)]*)\)", cell)
    cell = re.sub(r"\([^)]*\)|`--[^`]*`", "", cell)
    return re.findall(r"`([\w-]+)`", cell), re.findall(r"`([\w-]+)`", " ".join(in_brackets))


def long(row: Row) -> Row:
    return {**row, "text": LONG} if "text" in row else row


@pytest.mark.cases(4)
@pytest.mark.parametrize(("name", "command", "cell"), CELLS, ids=lambda value: value[:12])
def test_a_command_reads_the_fields_that_its_cell_names(name, command, cell, read, tmp_path):
    if name == "plain text":
        (tmp_path / "document.txt").write_text(LONG)
        if cell == "-":
            with pytest.raises(ValueError):
                read.file(command, tmp_path / "document.txt")
        else:
            read.file(command, tmp_path / "document.txt")
        return
    row = long(EXAMPLES[name])
    if cell == "pair":
        (found,) = load_biencoder_rows([row], group_size=1)
        assert [found["query"], *found["pos"]] == [row[key] for key in row if key not in ABOUT][:2]
        return
    if cell == "-":
        with pytest.raises(ValueError):
            read(command, row)
        return
    needed, other = fields_of(cell)
    assert needed

    def refused(key: str, changed: Row) -> None:
        try:
            read(command, changed)
        except (ValueError, TypeError):
            return
        pytest.fail(f"{command} does not read {key!r}: {changed}")

    read(command, row)
    read(command, {key: row[key] for key in needed})
    read(command, {**{key: row[key] for key in needed}, **dict.fromkeys(other)})
    for key in set(needed) - INSTEAD.get((name, command), set()):
        refused(key, {one: value for one, value in row.items() if one != key})
    if name in BY_TYPE:
        (found,) = load_biencoder_rows([row], group_size=1)
        assert all(str(row[key]) in str(found) for key in [*needed, *other])
        return
    for key in [*needed, *other]:
        refused(key, {**row, key: {"not": "this"}})


def test_what_the_commands_write_is_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_backbone().save_pretrained("lm")
    tiny_tokenizer().save_pretrained("lm")
    row = EXAMPLES["query rows"]
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    Path("long.txt").write_text(LONG)
    Path("corpus.txt").write_text("a passage\nanother passage\ntarfile.open(name)\n")
    for line in (
        "mine --data rows.jsonl --corpus corpus.txt --retriever bm25 --rank_from 0 --num_negatives 1 --scores true "
        "--output mined.jsonl",
        "score --data rows.jsonl --model lm --output scored.jsonl",
        "score --data long.txt --task document --model lm --context_window_size 32 --chunk_size 8 "
        "--output documents.jsonl",
    ):
        run(line.split())
    mined, scored, documents = (json.loads(Path(f"{name}.jsonl").read_text().splitlines()[0])
                                for name in ("mined", "scored", "documents"))  # fmt: skip
    assert mined.keys() == (row.keys() - {"teacher_scores"}) | {"pos_scores", "neg_scores"}
    assert mined["pos"] == row["pos"] and mined["neg"] != row["neg"]
    assert scored.keys() == row.keys() and len(scored["teacher_scores"]) == len(row["pos"]) + len(row["neg"])
    assert documents.keys() == {"query", "pos", "neg", "teacher_scores"}
    written = {line["command"]: set(re.findall(r"`([\w-]+)`", line["holds"])) for line in table_of(PAGE, "command")}
    assert written["`score`"] == documents.keys()
    assert written["`mine`"] >= {"neg", "pos_scores", "neg_scores"}
    for name in ("mined", "scored", "documents"):
        list(load_biencoder_rows(f"{name}.jsonl", group_size=2))


def test_the_text_of_the_tables_belongs_to_llara_too(read):
    """Documents are cut into rows with the fields of "passages with words to name"."""
    llara = LlaraForPreTraining.from_backbone(tiny_backbone(), tokenizer=tiny_tokenizer())
    rows = load_llara_rows([{"text": LONG}], llara.tokenizer, room=32)
    assert rows.column_names == list(EXAMPLES["passages with words to name"])
