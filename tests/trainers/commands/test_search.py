"""`lookback search` in what `lookback encode` wrote."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import normalizers

from modeling_biencoder import BiEncoderModel
from tests.support.beir import CORPUS, write_beir
from tests.support.files import read_rows, write_rows
from tests.support.pretrained import minilm
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import load_index
from trainers.commands import encode as encode_command
from trainers.commands import search as search_command
from trainers.commands.encode import EncodeArguments
from trainers.commands.search import SearchArguments, read_queries
from trainers.mining.settings import MineArguments

PROMPTS = {"default": {"query": "ask: "}, "facts": {"query": "which? ", "passage": "fact: "}}
TEXTS = list(CORPUS.values())


def encode(model, data, output, *more):
    encode_command.main(["--model", str(model), "--data", str(data), "--output", str(output), *map(str, more)])


def search(index, *more):
    search_command.main(["--index", str(index), *map(str, more)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model `bi` that is not normalised, and `rows.jsonl`."""
    settings = {"prompts": PROMPTS, "normalize": False, "similarity": "cosine", "embedding_dims": [16]}
    made = BiEncoderModel.from_backbone(tiny_backbone(lm_head=False), tiny_tokenizer(), **settings)
    made.save_pretrained(tmp_path / "bi")
    write_rows(tmp_path / "rows.jsonl", [{"_id": key, "text": text} for key, text in CORPUS.items()])
    return tmp_path


def test_an_index_of_a_former_version_says_less_and_is_taken(folder, capsys):
    """Its settings lack the digests that came later; so a float index of today may score what it finds anew."""
    for name, precision in (("b.npy", "binary"), ("f.npy", "float16")):
        encode(folder / "bi", folder / "rows.jsonl", folder / name, "--precision", precision)
    about = json.loads((folder / "b.about.json").read_text())
    encoding = json.loads(about["encoding"])
    assert encoding.pop("sha256 of all weights") and encoding.pop("sha256 of the tokenizer")
    (folder / "b.about.json").write_text(json.dumps({**about, "encoding": json.dumps(encoding)}))
    capsys.readouterr()
    search(
        folder / "b.npy", "--model", folder / "bi", "--query", "lantern", "--top_k", 2, "--rescore", folder / "f.npy"
    )
    assert len(printed(capsys)) == 2


def printed(capsys: pytest.CaptureFixture) -> list[list[str]]:
    return [line.split("\t") for line in capsys.readouterr().out.splitlines()]


def ranking(
    model: BiEncoderModel, query: str, task: str | None = None, dim: int | None = None
) -> list[tuple[str, float]]:
    passages = model.encode(TEXTS, role="passage", task=task, truncate_dim=dim)
    scores = model.similarity(model.encode([query], role="query", task=task, truncate_dim=dim), passages)[0]
    return sorted(zip(CORPUS, scores.tolist(), strict=True), key=lambda pair: -pair[1])


@pytest.mark.cases(2)
@pytest.mark.parametrize("options", [[], ["--task", "facts"], ["--truncate_dim", 16], ["--precision", "float16"]])
@pytest.mark.parametrize("suffix", [".parquet", ".safetensors", ".npy"])
def test_what_is_found_is_what_the_model_says(folder, capsys, suffix, options):
    model = BiEncoderModel.from_pretrained(folder / "bi")
    index = folder / f"e{suffix}"
    encode(folder / "bi", folder / "rows.jsonl", index, *options)
    capsys.readouterr()
    data = [] if suffix == ".parquet" else ["--data", folder / "rows.jsonl"]
    search(index, "--model", folder / "bi", "--query", "a copper  lantern", "--top_k", 3, *data)
    task, dim = ("facts" if "facts" in options else None), (16 if 16 in options else None)
    expected = ranking(model, "a copper  lantern", task, dim)[:3]
    found = printed(capsys)
    assert [(one, text) for one, _, text in found] == [(one, CORPUS[one]) for one, _ in expected]
    tolerance = 1e-3 if "float16" in options else 2e-4
    assert [float(score) for _, score, _ in found] == pytest.approx([score for _, score in expected], abs=tolerance)


def test_several_queries_and_a_file_of_rows(folder, capsys):
    encode(folder / "bi", folder / "rows.jsonl", folder / "e.parquet", "--shard_size", 3)
    write_rows(folder / "queries.jsonl", [{"id": "x", "text": "who reads"}, {"text": "the hammer"}])
    capsys.readouterr()
    options = ["--model", folder / "bi", "--query", "one", "two", "--queries", folder / "queries.jsonl", "--top_k", 2]
    search(folder / "e.parquet", *options, "--output", folder / "hits.jsonl")
    lines = capsys.readouterr().out.splitlines()
    assert lines[::3] == ["# one", "# two", "# who reads", "# the hammer"] and len(lines) == 12
    rows = read_rows(folder / "hits.jsonl")
    assert [(row["id"], row["query"]) for row in rows] == list(
        zip(["0", "1", "x", "3"], ["one", "two", "who reads", "the hammer"], strict=True)
    )
    index, model = load_index(folder / "e.parquet"), BiEncoderModel.from_pretrained(folder / "bi")
    hits = index.find(model, ["who reads"], 2)[0]
    assert rows[2]["hits"] == [hit._asdict() for hit in hits]
    assert f"{hits[0].id}\t{hits[0].score:.4f}\t{hits[0].text}" == lines[7]


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_a_binary_index_scores_with_the_float_one(folder, capsys, backend):
    pytest.importorskip("faiss")
    encode(folder / "bi", folder / "rows.jsonl", folder / "b.npy", "--precision", "binary")
    encode(folder / "bi", folder / "rows.jsonl", folder / "f.parquet")
    capsys.readouterr()
    options = ["--model", folder / "bi", "--query", "lantern", "--top_k", 8, "--rescore", folder / "f.parquet"]
    search(folder / "b.npy", *options, "--backend", backend)
    expected = ranking(BiEncoderModel.from_pretrained(folder / "bi"), "lantern")
    assert [row[0] for row in printed(capsys)] == [one for one, _ in expected]  # all eight are scored anew
    assert "lantern" not in capsys.readouterr().out  # a .npy has no texts


def test_the_model_beside_the_index_is_found_by_itself(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    encode("bi", "rows.jsonl", "out/e.parquet")
    shutil.copytree(folder, folder.parent / "moved")
    monkeypatch.chdir(folder.parent)
    shutil.rmtree(folder)
    capsys.readouterr()
    search("moved/out/e.parquet", "--query", "lantern", "--top_k", 1)
    assert len(printed(capsys)) == 1
    assert str(folder) not in json.dumps(load_index("moved/out/e.parquet").about)
    shutil.rmtree("moved/bi")
    with pytest.raises(ValueError, match="is made by 'bi', which is not where it was: give the folder or Hub id"):
        search("moved/out/e.parquet", "--query", "lantern")


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.backbone.get_input_embeddings().weight.data[3:].mul_(2), "has other weights than"),
        (
            lambda model: setattr(model.backbone.config, "hidden_act", "relu"),
            "has another configuration of its backbone than",
        ),
        (
            lambda model: setattr(model.tokenizer.backend_tokenizer, "normalizer", normalizers.Replace("e", "a")),
            "has another tokenizer than",
        ),
        (lambda model: model.config.prompts.update(default={"query": "q: "}), "prompts was"),
        (lambda model: setattr(model.config, "pooling", "mean"), "pooling was 'last_token' and is 'mean'"),
    ],
)
def test_another_model_is_refused(folder, change, message):
    encode(folder / "bi", folder / "rows.jsonl", folder / "e.parquet")
    model = BiEncoderModel.from_pretrained(folder / "bi")
    change(model)
    model.save_pretrained(folder / "other")
    with pytest.raises(ValueError, match=message):
        search(folder / "e.parquet", "--query", "lantern", "--model", folder / "other")


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--index", "none.parquet", "--query", "a"], "--index='none.parquet' is no file"),
        (["--query", "a", "--rescore", "none.npy"], "--rescore='none.npy' is no file"),
        ([], "--query is missing"),
        (["--query", " "], "--query=' ' must be a text"),
        (["--query", "a", "--top_k", "0"], "--top_k=0 must be at least 1"),
        (["--query", "a", "--queries", "none.txt"], "There is no file or folder 'none.txt'"),
        (["--query", "a", "--output", "hits.txt"], "must end in .jsonl"),
        (["--query", "a", "--data", "lines"], "holds other texts than were embedded"),
        (["--query", "a", "--task", "fact"], "task='fact' has no prompt"),
        (["--query", "a", "--rescore", "e.parquet"], "rescore is for a binary index"),
        (["--index", "rows.jsonl", "--query", "a"], "must end in .safetensors, .parquet, .npy"),
        (["--index", "other.parquet", "--query", "a"], "of something that does not name its model"),
    ],
)
def test_what_is_wrong_is_named(folder, monkeypatch, options, message):
    monkeypatch.chdir(folder)
    if "e.parquet" in options or "--data" in options or "--task" in options:
        encode("bi", "rows.jsonl", "e.parquet")
    else:
        import pyarrow
        import pyarrow.parquet as pq

        table = pyarrow.table({"id": ["a"], "embedding": [[1.0] * 32]})
        for name in ("e.parquet", "other.parquet"):
            pq.write_table(table, name)
    Path("lines").write_text("one\ntwo\n")
    with pytest.raises(ValueError, match=message):
        search_command.main([*([] if "--index" in options else ["--index", "e.parquet"]), *options])


def test_an_output_takes_the_place_of_nothing(tmp_path):
    for name in ("e.npy", "e.ids.jsonl", "hits.jsonl", "e-00000-of-00002.parquet"):
        (tmp_path / name).touch()
    given = {"index": str(tmp_path / "e.npy"), "query": ["a"]}
    hits, ids = str(tmp_path / "hits.jsonl"), str(tmp_path / "e.ids.jsonl")
    with pytest.raises(ValueError, match=r"hits.jsonl is there already.*give --overwrite"):
        SearchArguments(**given, output=hits)
    assert SearchArguments(**given, output=hits, overwrite=True).output == hits
    with pytest.raises(ValueError, match=r"ids.jsonl' is a file of --index="):
        SearchArguments(**given, output=ids, overwrite=True)
    for data, output in (("e-00000-of-00002.parquet", "e.parquet"), ("e.ids.jsonl", "e.npy")):
        for more in ({"overwrite": True}, {"num_shards": 2}):
            with pytest.raises(ValueError, match="is called as a file of --output="):
                EncodeArguments("bi", str(tmp_path / data), str(tmp_path / output), **more)


def test_a_table_of_another_tool_is_searched_with_a_model_that_is_named(folder, capsys):
    datasets = pytest.importorskip("datasets")
    model = BiEncoderModel.from_pretrained(folder / "bi")
    made = {
        "id": list(CORPUS),
        "text": TEXTS,
        "embedding": torch.nn.functional.normalize(model.encode(TEXTS, role="passage")).tolist(),
    }
    datasets.Dataset.from_dict(made).to_parquet(folder / "e.parquet")
    search(folder / "e.parquet", "--model", folder / "bi", "--query", "a copper lantern", "--top_k", 8)
    assert [row[0] for row in printed(capsys)][-8:] == [one for one, _ in ranking(model, "a copper lantern")]


@pytest.mark.slow
def test_minilm_finds_the_answer(tmp_path, capsys):
    answers = {"tar": "Open a tar archive for reading.", "sum": "Add numbers.", "sleep": "Wait for some seconds."}
    write_rows(tmp_path / "rows.jsonl", [{"id": key, "text": text} for key, text in answers.items()])
    for precision in ("float32", "int8", "binary"):
        encode(minilm(), tmp_path / "rows.jsonl", tmp_path / f"{precision}.parquet", "--precision", precision)
        capsys.readouterr()
        search(tmp_path / f"{precision}.parquet", "--model", minilm(), "--query", "unpack a tarball", "--top_k", 1)
        assert printed(capsys)[0][::2] == ["tar", answers["tar"]]


def test_ids_of_another_suffix_are_not_written_over(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [{"text": "a"}])
    for name in ("e.safetensors", "e.ids.jsonl", "p.parquet"):
        (tmp_path / name).touch()
    given = {"model": "m", "data": str(tmp_path / "rows.jsonl"), "overwrite": True}
    with pytest.raises(ValueError, match=r"write its ids over those of .*e.safetensors.*name another output"):
        EncodeArguments(output=str(tmp_path / "e.npy"), **given)
    for name in ("e.safetensors", "e.parquet", "p.npy"):
        EncodeArguments(output=str(tmp_path / name), **given)
    EncodeArguments(output=str(tmp_path / "e.parquet"), **{**given, "overwrite": False})  # which has the ids itself


def test_ids_of_queries_stand_once(tmp_path):
    given = {"index": str(tmp_path / "q.jsonl"), "queries": str(tmp_path / "q.jsonl")}
    for row, query in (({"id": "0"}, ["island"]), ({"id": "1"}, [])):
        write_rows(tmp_path / "q.jsonl", [{**row, "text": "a"}, {"text": "b"}])
        with pytest.raises(ValueError, match=r"the id '[01]'"):
            read_queries(SearchArguments(query=query, **given))
    assert read_queries(SearchArguments(query=["c"], **given))[0] == ["0", "1", "2"]
    write_rows(tmp_path / "q.jsonl", [{"text": "a"}, {"text": " "}])
    with pytest.raises(ValueError, match=r"q\.jsonl, line 2: the query is blank: say what to look for"):
        read_queries(SearchArguments(**given))


def test_a_folder_of_several_tables_is_not_texts_of_one_kind(tmp_path):
    folder = str(write_beir(tmp_path / "scifact"))
    (tmp_path / "e.npy").touch()
    message = r"scifact' holds corpus\.jsonl and queries\.jsonl, which are not .*such as '.*scifact.corpus.jsonl'"
    for make in (
        lambda: EncodeArguments("m", folder, str(tmp_path / "out.npy")),
        lambda: SearchArguments(str(tmp_path / "e.npy"), queries=folder),
        lambda: MineArguments(folder + "/queries.jsonl", str(tmp_path / "out.jsonl"), corpus=folder),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    (tmp_path / "scifact" / "queries.jsonl").unlink()
    EncodeArguments("m", folder, str(tmp_path / "out.npy"))
