# ruff: noqa: RUF001  (typographic and full-width punctuation is meant)
import pytest

from trainers import LlaraTrainingArguments
from trainers.llara.stop_words import LANGUAGES, STOP_WORDS, load_stop_words, without_stop_words


@pytest.mark.parametrize(
    ("language", "text", "kept"),
    [
        ("english", "THE Lantern, and (the) hammer", "Lantern, hammer"),
        ("german", "Die Laterne steht auf der Insel, und „sie“ ist aus Kupfer.", "Laterne steht Insel, Kupfer."),
        ("french", "C’est l'île où j'ai mis la lanterne d’Anne.", "île mis lanterne Anne."),
        ("spanish", "¿Dónde está la linterna que él dejó en la isla?", "¿Dónde linterna dejó isla?"),
    ],
)
def test_what_is_left(language, text, kept):
    assert without_stop_words(text, LANGUAGES[language]) == kept


@pytest.mark.parametrize("words", LANGUAGES.values(), ids=LANGUAGES)
def test_every_word_of_a_list_is_found_and_no_other(words):
    for word in words:
        joined = word.endswith("'")
        text = f"({word.capitalize()}lantern {word.upper()}copper" if joined else f"lantern ({word.upper()}), copper"
        assert without_stop_words(text, words) == "lantern copper", word
    assert without_stop_words("lantern copper", words) == "lantern copper"


def test_lists_add_up_and_a_file_is_one(tmp_path):
    (tmp_path / "own.txt").write_text("Lantern hammer  # tools\n# the whole line\ncandle\n", encoding="utf-8")
    own = str(tmp_path / "own.txt")
    assert load_stop_words([own]) == {"lantern", "hammer", "candle"}
    assert load_stop_words(["english", own]) == STOP_WORDS | {"lantern", "hammer", "candle"}
    assert load_stop_words(["none"]) == frozenset()


def test_bad_lists(tmp_path):
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"'klingon' is neither a language .*english"):
        load_stop_words(["klingon"])
    with pytest.raises(ValueError, match="holds no word"):
        load_stop_words([str(tmp_path / "empty")])
    for names in ([], ["none", "english"]):
        with pytest.raises(ValueError, match="'none' alone"):
            load_stop_words(names)


def test_arguments(tmp_path):
    assert LlaraTrainingArguments(str(tmp_path)).loaded_stop_words() == STOP_WORDS
    assert LlaraTrainingArguments(str(tmp_path), stop_words="none").loaded_stop_words() == frozenset()
    assert LlaraTrainingArguments(str(tmp_path), remove_stop_words=False).loaded_stop_words() == frozenset()
    both = LlaraTrainingArguments(str(tmp_path), stop_words=["german", "french"]).loaded_stop_words()
    assert both == LANGUAGES["german"] | LANGUAGES["french"]
    with pytest.raises(ValueError, match="'klingon' is neither"):
        LlaraTrainingArguments(str(tmp_path), stop_words=["klingon"])
    with pytest.raises(ValueError, match="precision_k=0 must be at least 1"):
        LlaraTrainingArguments(str(tmp_path), precision_k=0)
