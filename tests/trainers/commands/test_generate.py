"""`lookback generate`: what it streams is what the model generates."""

import io

import pytest
from transformers import GenerationConfig

from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer, with_special_tokens
from trainers.commands import generate
from trainers.commands.generate import GenerateArguments, main, read_prompt
from trainers.models.load import load_srlm

SETTINGS = {"context_window_size": 64, "chunk_size": 16, "key_num": 2, "retrieval_method": "bm25"}


@pytest.fixture(params=["srlm", "plain"])
def folder(tmp_path, request):
    if request.param == "srlm":
        model = SelfRetrievalLM.from_components(tiny_backbone(eos_token_id=None), tiny_tokenizer(), **SETTINGS)
        model.save_pretrained(tmp_path / "m")
    else:
        tiny_backbone("gpt2", eos_token_id=None, n_positions=256).save_pretrained(tmp_path / "m")
        tiny_tokenizer().save_pretrained(tmp_path / "m")
    return str(tmp_path / "m")


@pytest.mark.cases(1)
def test_it_streams_what_the_model_generates(folder, capsys, tmp_path):
    tokenizer = tiny_tokenizer()
    text = tokenizer.decode(random_ids(150))
    (tmp_path / "prompt.txt").write_text(text, encoding="utf-8")
    sizes = ["--context_window_size", "64", "--chunk_size", "16", "--key_num", "2", "--retrieval_method", "bm25"]
    main(["--model", folder, "--prompt_file", str(tmp_path / "prompt.txt"), "--max_new_tokens", "24", *sizes,
          "--show-retrieval"])  # fmt: skip
    printed = capsys.readouterr()
    model = load_srlm(folder, SETTINGS).eval()
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    output = model.generate(ids, GenerationConfig(max_new_tokens=24, return_dict_in_generate=True))
    expected = tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True)
    assert printed.out.strip() == expected.strip()
    lines = printed.err[printed.err.index("before new token 0") :].splitlines()
    assert [line for line in lines if line.startswith("before")] == ["before new token 0:", "before new token 16:"]
    best = int(output.past_key_values.retrievals[0][1][0, 0])
    padding = -ids.shape[1] % 16
    value = ids[0, max(best * 16 - padding, 0) : (best + 2) * 16 - padding]
    assert lines[1].startswith(f"  chunk {best} ")
    assert lines[1].endswith(repr(tokenizer.decode(value)))


@pytest.mark.cases(1)
def test_sampling_follows_the_seed_and_standard_input_is_read(folder, capsys, monkeypatch):
    outputs = []
    for seed in ("1", "1", "2"):
        monkeypatch.setattr("sys.stdin", io.StringIO("the copper lantern"))
        main(["--model", folder, "--prompt_file", "-", "--max_new_tokens", "20", "--do_sample", "--seed", seed])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


@pytest.mark.parametrize("add_bos", [False, True])
def test_what_a_tokenizer_puts_around_a_text_is_no_part_of_the_prompt(monkeypatch, capsys, add_bos):
    seen, printed = [], []
    for tokenizer in (tiny_tokenizer(), with_special_tokens()):
        backbone = tiny_backbone(eos_token_id=None)
        model = SelfRetrievalLM.from_components(backbone, tokenizer, add_bos=add_bos, **SETTINGS)
        model.language_model.register_forward_pre_hook(
            lambda module, args, inputs: seen.append(inputs["input_ids"][0].tolist()), with_kwargs=True
        )
        monkeypatch.setattr(generate, "load_srlm", lambda *args, model=model, **keywords: model)
        main(["--model", "m", "--prompt", "the copper lantern", "--max_new_tokens", "4"])
        printed.append(capsys.readouterr().out)
    ids = tiny_tokenizer()("the copper lantern")["input_ids"]
    firsts = [row for row in seen if len(row) >= len(ids)]
    assert firsts == [[0] * add_bos + ids] * 2
    assert printed[0] == printed[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "one of --prompt and --prompt_file"),
        (["--prompt", "a", "--prompt_file", "b"], "one of --prompt and --prompt_file"),
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt_file", "missing.txt"], "must be a file and is none"),
        (["--prompt", "a", "--max_new_tokens", "0"], "max_new_tokens"),
        (["--prompt", "a", "--retrieval_method", "bm52"], "bm25"),
        (["--prompt", "a", "--retrieval_method", "oracle"], "'oracle' is not known: it must be one of"),
    ],
)
def test_bad_input_is_named(arguments, text):
    with pytest.raises(ValueError, match=text):
        main(arguments)


@pytest.mark.parametrize(("given", "text"), [(b"\xef\xbb\xbfone\n", "one\n"), (b"one \xe9", None)])
def test_standard_input_is_utf8_whatever_the_terminal_has(monkeypatch, given, text):
    stream = io.TextIOWrapper(io.BytesIO(given), encoding="ascii", errors="surrogateescape")
    monkeypatch.setattr("sys.stdin", stream)
    arguments = GenerateArguments(prompt_file="-")
    if text is not None:
        assert read_prompt(arguments) == text
        return
    with pytest.raises(ValueError, match=r"standard input is not UTF-8 \(byte 0xe9\)"):
        read_prompt(arguments)


def test_a_prompt_file_is_a_text_as_it_is(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_bytes(b"one\r\ntwo")
    assert read_prompt(GenerateArguments(prompt_file=str(file))) == "one\r\ntwo"
    file = tmp_path / "rows.parquet"
    file.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"rows\.parquet is a parquet file: give a text file"):
        read_prompt(GenerateArguments(prompt_file=str(file)))
