"""Options of `generate` and `chat`, given as keywords, in a generation_config, or in the model's own."""

import pytest
import torch
from transformers import GenerationConfig

from modeling_srlm import SelfRetrievalLM
from tests.support.tiny import random_ids, tiny_backbone, tiny_tokenizer
from trainers.commands import generate, needle, perplexity

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}answer:"
MESSAGES = [{"role": "user", "content": "What does the library read?"}]


def srlm(reuse_states=False, **settings):
    backbone, tokenizer = tiny_backbone("llama", eos_token_id=None), tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    sizes = {"retrieval_method": "bm25", "context_window_size": 64, "chunk_size": 8, "key_num": 1}
    return SelfRetrievalLM.from_components(backbone, tokenizer, **{**sizes, **settings}, reuse_states=reuse_states)


def given(how, model, **options):
    """Keywords of `generate` that hold the options; for "own" they are put into the model's own configuration."""
    if how == "keyword":
        return options
    if how == "config":
        return {"generation_config": GenerationConfig(max_new_tokens=4, **options)}
    for name, value in options.items():
        setattr(model.generation_config, name, value)
    return {}


@pytest.mark.cases(2)
@pytest.mark.parametrize("how", ["keyword", "config", "own"])
@pytest.mark.parametrize("reuse_states", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"assistant_early_exit": 1}, {"use_mtp": True}, {"prefill_chunk_size": 4}, {"guidance_scale": 1.5},
        {"cache_implementation": "static"}, {"output_hidden_states": True, "return_dict_in_generate": True},
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_wherever_it_is_said_and_changes_nothing(options, reuse_states, how):
    model, ids = srlm(reuse_states), random_ids(1, 40)
    before = model.generate(ids, max_new_tokens=4)
    keywords = given(how, model, **options)
    name = next(iter(options))
    fix = f"set model.generation_config.{name} to None" if how == "own" else "leave it out"
    with pytest.raises(ValueError, match=f"generate got {name}=.*{fix}"):
        model.generate(ids, **{"max_new_tokens": 4, **keywords} if how != "config" else keywords)
    assert model.config.text_config.num_hidden_layers == len(model.language_model.model.layers) == 2
    for option in options:
        setattr(model.generation_config, option, None)
    assert torch.equal(model.generate(ids, max_new_tokens=4), before)


def test_ways_around_generate_are_refused():
    model, ids = srlm(), random_ids(1, 40)
    with pytest.raises(ValueError, match=r"continuous batching .* use generate"):
        model.generate_batch(inputs=ids.tolist(), progress_bar=False)
    with pytest.raises(ValueError, match="cannot be the assistant_model of another model"):
        model.language_model.generate(ids, max_new_tokens=4, assistant_model=model)


def test_what_a_repo_says_of_its_own_cache_and_of_outputs_that_nobody_sees_is_in_nobodys_way():
    model, ids = srlm(), random_ids(1, 40)
    before = model.generate(ids, max_new_tokens=4)
    model.generation_config.cache_implementation = "hybrid"
    model.generation_config.output_hidden_states = True
    assert torch.equal(model.generate(ids, max_new_tokens=4), before)


@pytest.mark.parametrize("how", ["keyword", "config", "own"])
@pytest.mark.parametrize("reuse_states", [False, True])
def test_a_chat_gives_one_answer(reuse_states, how):
    model = srlm(reuse_states)
    with pytest.raises(ValueError, match="num_return_sequences=3 must be 1"):
        model.chat(MESSAGES, **given(how, model, num_return_sequences=3, do_sample=True))
    if how == "own":
        model.generation_config.num_return_sequences = None
    else:
        with pytest.raises(TypeError, match="leave custom_generate out"):
            model.chat(MESSAGES, custom_generate=lambda *args, **kwargs: 1)
    plain = model.chat(MESSAGES, max_new_tokens=4, do_sample=False)
    if how == "keyword":
        return
    keywords = given(how, model, return_dict_in_generate=True, do_sample=False)
    reply = model.chat(MESSAGES, **keywords if how == "config" else {"max_new_tokens": 4})
    assert reply.content == plain.content


@pytest.mark.cases(2)
@pytest.mark.parametrize("how", ["keyword", "config", "own"])
@pytest.mark.parametrize("reuse_states", [False, True])
def test_a_text_ends_at_a_string(reuse_states, how):
    model, ids = srlm(reuse_states), random_ids(1, 40)
    whole = model.generate(ids, max_new_tokens=8)[0, 40:]
    reply = model.chat(MESSAGES, max_new_tokens=8, do_sample=False)
    stops = [model.tokenizer.decode(whole[3]), reply.content[2]]
    keywords = given(how, model, stop_strings=stops)
    if how == "config":
        keywords["generation_config"].max_new_tokens = 8
    else:
        keywords["max_new_tokens"] = 8
    new = model.generate(ids, **keywords)[0, 40:]
    assert len(new) < 8 and torch.equal(new, whole[: len(new)])
    assert len(model.chat(MESSAGES, **keywords).content) < len(reply.content)


def test_the_command_ends_where_the_repo_says_and_names_a_seed_that_is_none(tmp_path, capsys):
    model = srlm()
    text = "the library reads"
    whole = model.generate(model.tokenizer(text, return_tensors="pt")["input_ids"], max_new_tokens=8)[0, 3:]
    model.generation_config.stop_strings = [model.tokenizer.decode(whole[-2])]
    model.save_pretrained(tmp_path / "repo")
    generate.main(["--model", str(tmp_path / "repo"), "--prompt", text, "--max_new_tokens", "8"])
    assert capsys.readouterr().out
    with pytest.raises(ValueError, match="seed=4294967296 must be below 4294967296"):
        generate.main(["--model", str(tmp_path / "repo"), "--prompt", text, "--do_sample", "--seed", str(2**32)])


@pytest.mark.cases(1)
@pytest.mark.parametrize("command", [generate, perplexity, needle])
def test_a_target_size_that_kept_states_do_not_heed_is_refused(command, tmp_path):
    repo, text = tmp_path / "repo", tmp_path / "a.txt"
    srlm(reuse_states=True).save_pretrained(repo)
    text.write_text("The library reads long documents. " * 20)
    own = {
        generate: ["--prompt", "the library"], perplexity: ["--data", str(text)],
        needle: ["--data", str(text), "--lengths", "150", "--plain_prompt", "--max_new_tokens", "2"],
    }[command]  # fmt: skip
    with pytest.raises(ValueError, match="--target_size=16 has no meaning with reuse_states"):
        command.main(["--model", str(repo), "--target_size", "16", *own])
