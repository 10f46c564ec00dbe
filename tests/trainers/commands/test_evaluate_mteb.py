"""`lookback evaluate --mteb`: tasks by name, resumed from mteb's own files, into table, JSON and card."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from huggingface_hub import EvalResult, ModelCard

from hub_cards.cards.card import add_results
from modeling_biencoder import BiEncoderModel
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from trainers import MtebEncoder, cli
from trainers.commands import evaluate as command

pytestmark = pytest.mark.filterwarnings("ignore")  # mteb's own

PROMPTS = {"default": {"query": "q: "}, "STS": {"query": "alike: "}}


@pytest.fixture(scope="module", autouse=True)
def tasks():
    """Imported where they are run and not by every worker that collects these tests: it takes seconds."""
    global mteb, local
    mteb, local = pytest.importorskip("mteb"), pytest.importorskip("tests.support.mteb")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "mine"
    made = BiEncoderModel.from_backbone(tiny_backbone("bert"), tiny_tokenizer(), pooling="mean", prompts=PROMPTS)
    made.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def evaluate(model, tmp_path, monkeypatch):
    local.register(monkeypatch)
    place = ["--model", model, "--mteb_folder", str(tmp_path / "results")]
    return lambda *more: command.main([*place, "--mteb", *map(str, more)])


def main_score(model: str, task: str, **settings) -> float:
    kinds = [kind for kind in local.TASKS if kind.metadata.name == task]
    return local.scores(MtebEncoder(model, **settings), kinds)[task]["main_score"]


@pytest.mark.slow
def test_the_table_the_file_and_the_card(evaluate, model, tmp_path, capsys):
    written = ModelCard.load(Path(model) / "README.md")
    options = ["--truncate_dims", 8, "--batch_size", 7, "--output", tmp_path / "m.json", "--card"]
    evaluate("LocalSTS", "LocalRetrieval", *options)
    head, *lines, file, card = capsys.readouterr().out.splitlines()[1:]
    sts, found = (main_score(model, name) for name in ("LocalSTS", "LocalRetrieval"))
    assert head.split() == ["data", "set", "retriever", "score"]
    assert lines[0].split() == ["LocalSTS", "cosine_spearman", "model", f"{sts:.4f}"]
    narrow = main_score(model, "LocalSTS", truncate_dim=8)
    assert lines[1].split() == ["model,", "8", "numbers", f"{narrow:.4f}"] and narrow != sts
    assert lines[2].split() == ["LocalRetrieval", "ndcg_at_10", "model", f"{found:.4f}"]
    assert lines[4].split() == ["mean", "model", f"{(sts + found) / 2:.4f}"] and len(lines) == 6
    assert (file, card) == (f"scores: {tmp_path / 'm.json'}", f"card: {Path(model) / 'README.md'}")
    scores = json.loads((tmp_path / "m.json").read_text())
    assert scores["metrics"]["model"]["LocalSTS cosine_spearman"] == pytest.approx(sts, abs=1e-4)
    assert scores["scores"]["LocalRetrieval"]["test"][0]["recall_at_10"] > 0
    assert (scores["model"], scores["mteb"]) == ("local/mine", mteb.__version__)
    now = ModelCard.load(Path(model) / "README.md")
    results = {result.dataset_name: result for result in now.data.eval_results}
    assert results["LocalSTS"].metric_value == pytest.approx(sts, abs=1e-4)
    assert (results["LocalSTS"].dataset_type, results["LocalSTS"].metric_type) == ("local/LocalSTS", "cosine_spearman")
    assert "| LocalRetrieval | default | test | ndcg_at_10 |" in now.text and now.text.startswith(
        written.text.rstrip()
    )
    evaluate("LocalClassification", "--card")
    now = ModelCard.load(Path(model) / "README.md")
    assert len(now.data.eval_results) == 3 and now.text.count("## MTEB") == 1 and now.text.count("\n| Local") == 3


def test_finished_tasks_are_not_run_again(evaluate, tmp_path, capsys, monkeypatch):
    def ends(self, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local.LocalRetrieval, "evaluate", ends)
        with pytest.raises(KeyboardInterrupt):
            evaluate("LocalSTS", "LocalRetrieval")
    assert [path.stem for path in (tmp_path / "results").rglob("Local*.json")] == ["LocalSTS"]
    monkeypatch.setattr(local.LocalSTS, "evaluate", ends)
    evaluate("LocalSTS", "LocalRetrieval")
    assert "LocalSTS cosine_spearman" in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):  # another task of the model is another result
        evaluate("LocalSTS", "--task", "STS")


def test_a_benchmark_stands_for_its_tasks(evaluate, monkeypatch, capsys):
    tasks = mteb.get_tasks(["LocalSTS", "LocalClassification"])
    monkeypatch.setattr(mteb, "get_benchmark", {"Own": mteb.Benchmark("Own", tasks)}.__getitem__)
    evaluate("LocalSTS", "Own")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["LocalSTS", "LocalClassification", "mean"]


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["STS1"], r"--mteb='STS1' is no task or benchmark of mteb [\d.]+: did you mean 'STS1\d'"),
        (["NanoBEER"], r"did you mean 'NanoBEIR'"),
        (["CIFAR10"], "the task 'CIFAR10' is of image, and a bi-encoder reads texts"),
        (
            ["LocalSTS", "--data", "beir"],
            "--data='beir' has no meaning for --mteb: leave it out, or give --data alone",
        ),
        (["LocalSTS", "--baseline", "bm25"], "--baseline='bm25' has no meaning for --mteb"),
        (["LocalSTS", "--ks", "7"], "--ks=.7. has no meaning for --mteb"),
        (["LocalSTS", "--query_max_length", "7"], "--query_max_length=7 has no meaning for --mteb"),
        (["LocalSTS", "--task", "sts"], "task='sts' has no prompt"),
        (["LocalSTS", "--truncate_dims", "64"], "truncate_dim=64 is wider"),
        (["LocalSTS", "--batch_size", "0"], "--batch_size=0 must be at least 1"),
        (["LocalSTS", "--output", "m.txt"], "must end in .json"),
        (["LocalSTS", "--mteb_folder", __file__], "is no folder"),
    ],
)
def test_what_is_wrong_is_named(evaluate, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*options)
    assert not list(tmp_path.rglob("Local*.json"))


def test_widths_and_tasks_are_checked_before_the_weights(model, tmp_path, monkeypatch):
    local.register(monkeypatch)
    folder = shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    place = ["--model", str(folder), "--mteb", "LocalSTS"]
    with pytest.raises(ValueError, match="truncate_dim=64 is wider"):
        command.main([*place, "--truncate_dims", "8", "64"])
    with pytest.raises(ValueError, match="task='sts' has no prompt"):
        command.main([*place, "--task", "sts"])
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        command.main([*place, "--truncate_dims", "8"])


def test_options_of_mteb_alone_and_nothing_to_evaluate_on(model):
    for options, message in (
        (["--data", "beir", "--card"], "--card=True has no meaning for --data"),
        ([], "--data or --mteb"),
    ):
        with pytest.raises(ValueError, match=message):
            command.main(["--model", model, *options])


def test_a_card_needs_a_folder_that_has_one(evaluate, model, tmp_path):
    for other, message in (("user/mine", "is no folder"), (str(tmp_path), "has no README.md")):
        with pytest.raises(ValueError, match=f"--card: --model='{other}' {message}"):
            evaluate("LocalSTS", "--card", "--model", other)


def test_data_that_cannot_be_had_and_what_was_measured_before(evaluate, tmp_path, monkeypatch):
    def unreachable(self, **kwargs):
        raise ConnectionError("Couldn't reach 'local/LocalRetrieval' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(local.LocalRetrieval, "load_data", unreachable)
    with pytest.raises(
        ValueError, match=r"task 'LocalRetrieval' \(local/LocalRetrieval\) cannot be had \(Couldn't.*kept"
    ):
        evaluate("LocalSTS", "LocalRetrieval")
    assert list(tmp_path.rglob("LocalSTS.json"))

    def full(self, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.LocalRetrieval, "load_data", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate("LocalRetrieval")


def test_from_the_command_line_without_mteb(model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mteb", None)
    monkeypatch.setattr("sys.argv", ["lookback", "evaluate", "--model", model, "--mteb", "STS12"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "lookback evaluate: mteb is not installed: pip install mteb.\n"


def test_results_in_a_card_take_the_place_of_former_ones(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("---\nlicense: mit\ntags: [mine]\n---\n\n# Mine\n\nA person's words.\n")

    def result(value: float, **more) -> EvalResult:
        about = {"dataset_type": "a/b", "dataset_name": "B", "metric_type": "ndcg", "source_name": "MTEB"}
        return EvalResult(**{"task_type": "Retrieval", **about, **more}, metric_value=value, source_url="https://x.y")

    add_results(path, [result(0.1), result(0.2, dataset_split="dev")])
    add_results(path, [result(0.3)])
    card = ModelCard.load(path)
    assert {(one.dataset_split, one.metric_value) for one in card.data.eval_results} == {(None, 0.3), ("dev", 0.2)}
    assert (card.data.license, card.data.tags, card.data.model_name) == ("mit", ["mine"], tmp_path.name)
    assert "A person's words." in card.text and "| 0.1 |" not in card.text and card.text.count("| B |") == 2
