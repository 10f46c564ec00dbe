"""Cards: what they say, that the Hub client reads them, and that re-writing keeps what a person wrote."""

import pytest
from huggingface_hub import ModelCard

from hub_cards import render_card, write_card
from hub_cards.cards.card import _code
from tests.support.cards import PERSON, fake_model


@pytest.mark.parametrize(
    ("model_type", "pipeline_tag", "papers", "auto_class"),
    [
        ("lookback_biencoder", "sentence-similarity", {"2310.07554", "2409.15700"}, "AutoModel"),
        ("lookback_llara", "feature-extraction", {"2312.15503"}, "AutoModel"),
        ("lookback_srlm", "text-generation", {"2310.07554"}, "AutoModelForCausalLM"),
    ],
)
def test_every_family_has_its_metadata_code_and_papers(model_type, pipeline_tag, papers, auto_class):
    card = render_card(fake_model(model_type), repo_id="user/name")
    assert card.data.pipeline_tag == pipeline_tag
    assert card.data.library_name == "transformers"
    assert card.data.base_model == "meta-llama/Llama-3.2-1B"
    assert "lookback" in card.data.tags
    assert card.data.eval_results is None
    assert "1,234,567" in card.text
    assert "\n# name\n" in card.text
    assert f'{auto_class}.from_pretrained("user/name", trust_remote_code=True)' in card.text
    assert {paper for paper in ("2310.07554", "2312.15503", "2409.15700") if paper in card.text} == papers
    assert "## Training" not in card.text and "## Evaluation" not in card.text


def test_facts_reach_the_tables_and_the_model_index():
    card = render_card(
        fake_model(),
        repo_id="user/name",
        license="apache-2.0",
        language="en",
        datasets=["user/pairs"],
        training={"learning rate": 1e-5, "a|b": "two\nlines"},
        metrics={"mrr@10": 0.4312345, "steps": 300},
        evaluation_data="hold-out",
    )
    assert "| learning rate | 1e-05 |" in card.text
    assert "| a\\|b | two lines |" in card.text
    assert "| mrr@10 | 0.43123 |" in card.text
    read = ModelCard(str(card)).data  # as the client reads it back
    assert read.license == "apache-2.0" and read.datasets == ["user/pairs"] and read.language == "en"
    assert read.model_name == "name"
    assert {result.metric_type: result.metric_value for result in read.eval_results} == {"mrr@10": 0.4312345}
    assert {result.dataset_name for result in read.eval_results} == {"hold-out"}


def test_a_prompt_cannot_break_the_table():
    [row] = [line for line in render_card(fake_model()).text.splitlines() if "prompts of task" in line]
    assert row == '| prompts of task `default` | query: `` a "quote" \\| `tick`\\n `` |'
    assert _code("a ``` b\r") == "```` a ``` b\\r ````" and _code("a") == "`a`"


@pytest.mark.parametrize("name", ["", "backbone", "/abs/folder", "runs/a/b", "./here", "owner/na me"])
def test_a_folder_is_no_base_model(name):
    assert render_card(fake_model(name_or_path=name)).data.base_model is None


def test_an_existing_folder_that_looks_like_a_repo_is_no_base_model(tmp_path, monkeypatch):
    (tmp_path / "runs" / "llara").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert render_card(fake_model(name_or_path="runs/llara")).data.base_model is None
    assert render_card(fake_model(name_or_path="runs/other")).data.base_model == "runs/other"


def test_writing_twice_gives_the_same_file(tmp_path):
    path = write_card(fake_model(), tmp_path / "new", training={"steps": 3}, metrics={"loss": 1.5})
    assert path == tmp_path / "new" / "README.md"
    first = path.read_text()
    write_card(fake_model(), tmp_path / "new", training={"steps": 3}, metrics={"loss": 1.5})
    assert path.read_text() == first


def test_rewriting_renews_its_sections_and_keeps_the_words_between(tmp_path):
    path = write_card(fake_model(), tmp_path, metrics={"loss": 1.5})
    card = ModelCard.load(path)
    card.text = (
        "\n" + PERSON + card.text.replace("<!-- lookback:begin citation", f"{PERSON}\n<!-- lookback:begin citation")
    )
    card.data.license = "mit"
    card.data.pipeline_tag = "feature-extraction"
    card.data.tags.append("mine")
    card.save(path)
    write_card(fake_model(), tmp_path, training={"steps": 300}, metrics={"loss": 0.5, "mrr@10": 0.4})
    card = ModelCard.load(path)
    assert card.text.count(PERSON) == 2 and card.text.index(PERSON) < card.text.index("lookback:begin model")
    assert card.text.rindex(PERSON) < card.text.index("## Citation")
    assert card.data.license == "mit" and card.data.pipeline_tag == "feature-extraction"
    assert card.data.tags.count("lookback") == 1 and "mine" in card.data.tags
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {"mrr@10": 0.4}
    assert "| loss | 0.5 |" in card.text and "| loss | 1.5 |" not in card.text
    headings = [line for line in card.text.splitlines() if line.startswith("## ")]
    assert headings == ["## How to load it", "## Training", "## Evaluation", "## Citation"]


def test_a_later_save_without_facts_keeps_the_results(tmp_path):
    path = write_card(fake_model(), tmp_path, training={"steps": 300}, metrics={"loss": 0.5}, license="mit")
    before = path.read_text()
    write_card(fake_model(), tmp_path)
    assert path.read_text() == before


def test_a_fact_that_is_given_replaces_the_old_value(tmp_path):
    write_card(fake_model(), tmp_path, license="mit", datasets="user/one")
    card = ModelCard.load(write_card(fake_model(), tmp_path, license="apache-2.0", datasets="user/two"))
    assert card.data.license == "apache-2.0" and card.data.datasets == ["user/one", "user/two"]


@pytest.mark.parametrize("header", ["", "---\nlicense: mit\nextra: kept\n---\n"])
def test_a_card_written_by_a_person_keeps_its_text_first(tmp_path, header):
    path = tmp_path / "README.md"
    path.write_text(f"{header}# Mine\n\n{PERSON}\n")
    write_card(fake_model(), tmp_path)
    card = ModelCard.load(path)
    assert card.text.strip().startswith(f"# Mine\n\n{PERSON}\n\n<!-- lookback:begin model ")
    assert "<!-- lookback:end citation -->\n\n<!-- lookback:metadata " in card.text
    assert card.data.library_name == "transformers"
    if header:
        assert card.data.license == "mit" and card.data["extra"] == "kept"
    write_card(fake_model(), tmp_path)
    assert ModelCard.load(path).text == card.text


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"'bert'.*lookback_biencoder"):
        render_card(fake_model("bert"))
    with pytest.raises(ValueError, match=r"'metric'.*'metrics'"):
        render_card(fake_model(), metric={"loss": 1.0})
    with pytest.raises(TypeError, match=r"metrics\['loss'\] is 'low'"):
        render_card(fake_model(), metrics={"loss": "low"})
    with pytest.raises(TypeError, match="training is a list"):
        render_card(fake_model(), training=["steps"])
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
    with pytest.raises(ValueError, match=r"README\.md cannot be read"):
        write_card(fake_model(), tmp_path)
    assert (tmp_path / "README.md").read_text() == "---\nlicense: [mit\n---\n"
