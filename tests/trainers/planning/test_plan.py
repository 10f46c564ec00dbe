"""A plan's parameters, bytes and verdict against the real thing: models, optimizers, stores and saved indexes."""

import json
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from modeling_llara import LlaraForPreTraining
from modeling_srlm.moving_srlm import state_groups
from modeling_srlm.store_srlm import StateStore
from tests.support.decoders import SIZES, SPECIAL
from tests.support.planning import made
from tests.support.tiny import tiny_backbone, tiny_tokenizer
from tests.support.training import PASSAGES, arguments
from trainers import LlaraTrainer, LlaraTrainingArguments
from trainers.commands import plan as command
from trainers.planning import plan as planning
from trainers.planning import states
from trainers.planning.flops import Operations
from trainers.planning.memory import optimizer_bytes
from trainers.planning.settings import PlannedMachines, PlannedModel, PlannedTexts, PlannedTraining
from trainers.planning.table import table
from trainers.retrieval.storing import write_embeddings


@pytest.fixture
def backbone(tmp_path):
    """A folder with a configuration alone."""
    tiny_backbone("llama").config.save_pretrained(tmp_path / "backbone")
    return tmp_path / "backbone"


@pytest.fixture
def unmeasured(monkeypatch):
    """What takes a plan most of its time: `test_measured.py` has operations and activations."""
    operations = Operations(100, 50, 20, 10, attention=5, width=32)
    monkeypatch.setattr(planning, "operations_of", lambda model: operations)
    monkeypatch.setattr(planning, "activation_bytes", lambda *_: 1000)


def planned(backbone, system="biencoder", texts=None, training=None, machines=None, **model):
    texts = {**({"passage_max_length": 32} if system == "biencoder" else {}), **(texts or {})}
    texts = {"srlm": {"context_window_size": 64, "chunk_size": 16, "document_length": 160, "target_size": 32},
             "llara": {"max_length": 160}}.get(system, {}) | texts  # fmt: skip
    return planning.make_plan(
        PlannedModel(str(backbone), system, **model), PlannedMachines(**(machines or {})),
        PlannedTraining(**(training or {})), PlannedTexts(**texts), {},
    )  # fmt: skip


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("system", "lora", "dtype"),
    [("biencoder", False, "float32"), ("biencoder", True, "bfloat16"), ("llara", False, "bfloat16"),
     ("srlm", False, "float32"), ("srlm", True, "float32")],
)  # fmt: skip
def test_parameters_gradients_and_optimizer_are_those_of_a_training(unmeasured, backbone, system, lora, dtype):
    model = made(system, "llama", lora, getattr(torch, dtype))
    tiny_tokenizer().save_pretrained(backbone)
    plan = planned(backbone, system, lora_rank=4 if lora else None, dtype=dtype)
    trained = [one for one in model.parameters() if one.requires_grad]
    assert plan.parameters["total"] == sum(one.numel() for one in model.parameters())
    assert plan.parameters["trained"] == sum(one.numel() for one in trained)
    assert (
        sum(number for name, number in plan.parameters.items() if name not in ("total", "trained"))
        == (plan.parameters["total"])
    )
    for one in trained:
        one.grad = torch.zeros_like(one)
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    assert plan.memory.gradients == sum(one.grad.nbytes for one in trained)
    state = [value for one in optimizer.state.values() for value in one.values()]
    assert plan.memory.optimizer == sum(value.nbytes for value in state)
    assert plan.memory.weights == sum(one.nbytes for one in (*model.parameters(), *model.buffers()))


@pytest.mark.slow
def test_a_lora_on_llara_is_what_its_trainer_makes(backbone, tmp_path):
    tiny_tokenizer().save_pretrained(backbone)
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer())
    trainer = LlaraTrainer(model, arguments(LlaraTrainingArguments, tmp_path), PASSAGES, peft_config=LoraConfig(r=4))
    trained = sum(one.numel() for one in trainer.model.parameters() if one.requires_grad)
    assert planned(backbone, "llara", lora_rank=4).parameters["trained"] == trained


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("sharding", "divided"), [("zero2", ["gradients", "optimizer"]), ("fsdp", ["weights", "gradients", "optimizer"])]
)
def test_sharding_divides_what_it_shares(backbone, sharding, divided):
    plan = planned(backbone, machines={"gpus": 4, "sharding": sharding})
    for name in ("weights", "gradients", "optimizer", "activations"):
        whole, held = getattr(plan.memory, name), getattr(plan.held, name)
        assert held == (-(-whole // 4) if name in divided else whole)
    assert (plan.total > plan.held.together) == (sharding == "fsdp")  # layers are brought together


def test_hours_follow_from_rows_operations_and_speed(unmeasured, backbone):
    settings = {"rows": "1k", "num_train_epochs": 2.0, "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 2}  # fmt: skip
    plan = planned(backbone, training=settings, machines={"gpus": 5, "peak_tflops": 2.0, "utilization": 0.25})
    assert (plan.rows_a_step, plan.steps) == (40, 50)
    assert plan.seconds_a_step == pytest.approx(2 * plan.operations_a_batch / 0.5e12)
    found = planning.as_json(plan)
    assert found["hours"] == pytest.approx(50 * plan.seconds_a_step / 3600)
    assert found["flops_a_step"] == pytest.approx(10 * plan.operations_a_batch)
    assert found["tokens_a_step"] == 10 * (4 * 512 + 32 * 32)


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary"])
def test_the_index_is_as_large_as_a_saved_one(precision, tmp_path):
    numbers = torch.nn.functional.normalize(torch.randn(2000, 256), dim=-1)
    path = tmp_path / "index.safetensors"
    write_embeddings(path, lambda: [numbers], (2000, 256), map(str, range(2000)), precision=precision)
    assert planning.index_bytes(256, 2000)[precision] == pytest.approx(path.stat().st_size, rel=0.15)


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("family", "dtype"),
    [("llama", "float32"), ("llama", "bfloat16"), ("llama", "int8"), ("falcon", "float32"), ("phimoe", "int8")],
)
def test_the_store_keeps_as_much_as_the_real_one(family, dtype):
    """Falcon has one head of keys for all of queries', and no setting that says so."""
    config = CONFIG_MAPPING[family](**{**SIZES, "max_position_embeddings": 2048, **SPECIAL.get(family, {})})
    model = AutoModelForCausalLM.from_config(config).eval()
    store = StateStore(state_groups(model, 512), 16, "cpu", dtype)
    assert states.store_bytes(model, 16, dtype) == store.chunk_bytes


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("family", "why"),
    [("deepseek_v3", "its positions are in what it keeps as values"), ("gpt_bigcode", "its keys are not rotated")],
)
def test_states_that_cannot_be_used_again_are_not_planned(tmp_path, family, why):
    """DeepSeek-V3 keeps a latent in the place of keys, and what is rotated in that of values."""
    folder = configured(tmp_path, family, max_position_embeddings=1024)
    with pytest.raises(ValueError, match=f"reuse_states=True is not possible with a '{family}' backbone: {why}"):
        planned(folder, "srlm", {"reuse_states": True})


@pytest.mark.slow
def test_fsdp_brings_together_all_experts_of_a_layer(tmp_path):
    plan = planned(configured(tmp_path, "mixtral", max_position_embeddings=512), machines={"sharding": "fsdp"})
    assert plan.layer_bytes == 4 * plan.parameters["layers"] // 2 - 4 * 32 // 2  # two layers, and the last norm


@pytest.mark.slow
def test_what_does_not_fit_says_what_to_lower(backbone, capsys):
    asked = ["--model", str(backbone), "--system", "biencoder", "--passage_max_length", "64"]
    command.main([*asked, "--gpu_memory", "4MB", "--passages", "10k", "--rows", "100"])
    printed = capsys.readouterr().out
    assert "\n  binary  " in printed and "\n  steps  " in printed
    (line,) = [one for one in printed.splitlines() if one.startswith("  does not fit")]
    assert "set --gradient_checkpointing; set --sub_batch_size" in line
    command.main([*asked, "--json", "--passages", "10k"])
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["index"]["float32"] == 10_000 * 32 * 4


def test_states_that_are_kept(backbone, capsys):
    asked = [
        "--model",
        str(backbone / "config.json"),
        "--system",
        "srlm",
        "--reuse_states",
        "--store_dtype",
        "bfloat16",
    ]
    command.main([*asked, "--context_window_size", "64", "--chunk_size", "16", "--document_length", "1000"])
    printed = capsys.readouterr().out
    assert "training" not in printed and "of 1,000 tokens" in printed
    assert "128 B (bfloat16)" in printed  # 2 layers, 2 heads of 8 numbers, keys and values, 2 bytes


@pytest.mark.cases(2)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "0"], "--gpus=0 must be"),
        (["--gpu_memory", "much"], "--gpu_memory='much' must be a number of bytes above 0, such as 80GB"),
        (["--gpu_memory", "0GB"], "--gpu_memory='0GB'"),
        (["--passages", "many"], "--passages='many' must be a whole number above 0"),
        (["--utilization", "40"], "--utilization=40.0 must be above 0 and at most 1"),
        (["--peak_tflops", "0"], "--peak_tflops=0.0 must be above 0"),
        (["--dtype", "int4"], "--dtype='int4' must be one of float32"),
        (["--chunk_size", "64"], "--chunk_size=64 is for --system srlm, and this is biencoder: leave it out"),
        (["--store_dtype", "int8"], "--store_dtype='int8' must be"),
        (["--passage_max_length", "9999"], "A row of 9999 tokens is longer than the backbone's 2048 positions"),
        (["--truncate_dim", "64", "--passages", "5"], "--truncate_dim=64 must be at most the embedding's 32"),
        (["--lora_rank", "0"], "--lora_rank=0 must be"),
        (["--num_train_epochs", "0"], "--num_train_epochs=0.0 must be above 0"),
    ],
)
def test_bad_settings_are_refused(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        command.main(["--model", str(backbone), "--system", "biencoder", *options])


def test_an_encoder_is_refused_where_a_decoder_is_needed(tmp_path):
    tiny_backbone("bert", lm_head=False).config.save_pretrained(tmp_path)
    for system in ("llara", "srlm"):
        with pytest.raises(ValueError, match=f"is an encoder .bert., and --system {system} needs a decoder"):
            command.main(["--model", str(tmp_path), "--system", system])


def configured(folder, family, **settings):
    """A folder with a small configuration of a family, by transformers' own name."""
    CONFIG_MAPPING[family](**{**SIZES, **SPECIAL.get(family, {}), **settings}).save_pretrained(folder)
    return folder


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["albert", "distilbert", "modernbert", "opt"])
def test_families_that_say_little_of_themselves_or_take_a_mask_of_rows(tmp_path, family):
    sizes = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4} if family == "distilbert" else {}
    plan = planned(configured(tmp_path, family, **sizes))
    assert plan.kind == family and plan.memory.activations > 0 and plan.operations_a_batch > 0
    if family != "opt":
        with pytest.raises(ValueError, match=f"is an encoder .{family}., and --system srlm needs a decoder"):
            planned(tmp_path, "srlm")


@pytest.mark.slow
@pytest.mark.parametrize("system", ["biencoder", "llara", "srlm"])
def test_experts_are_planned_in_either_type(tmp_path, system):
    folder = configured(tmp_path, "mixtral", max_position_embeddings=256)
    whole, half = (planned(folder, system, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert whole.memory.activations > half.memory.activations > 0


@pytest.mark.parametrize(
    ("family", "message"), [("t5", "is an encoder with a decoder"), ("mamba", "without attention heads")]
)
def test_a_kind_that_no_biencoder_is_planned_on_is_refused(tmp_path, family, message):
    CONFIG_MAPPING[family](vocab_size=512).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        planned(tmp_path)


def test_a_forward_pass_that_needs_contents_is_refused_in_one_line(backbone, monkeypatch):
    def looks(*_, **__):
        raise RuntimeError("a look at contents\nand where")

    monkeypatch.setattr("trainers.planning.contentless._row", looks)
    with pytest.raises(ValueError, match=r"kind llama does not run without contents .a look at contents.: plan"):
        planned(backbone)


def test_an_unknown_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing_known"}')
    with pytest.raises(ValueError, match="nothing_known"):
        command.main(["--model", str(tmp_path / "config.json"), "--system", "biencoder"])
    with pytest.raises(OSError, match="nowhere"):
        command.main(["--model", str(tmp_path / "nowhere"), "--system", "biencoder"])


def test_what_is_not_known_is_not_said_to_fit(unmeasured, backbone, monkeypatch):
    monkeypatch.setattr(planning, "_optimizer", lambda *_: None)
    plan = planned(backbone, texts={"passages": "10"})
    assert plan.fits is None and planning.as_json(plan)["fits"] is None
    lines = [line.split("  ")[1] for line in table(plan).splitlines() if line.startswith("  fits")]
    assert lines == ["fits without the unknown"] and "  at least " in table(plan)
    assert plan.passage_length == 32 and plan.shapes.longest == 512  # an index holds passages, not queries


def test_what_the_optimizer_keeps_is_unknown_where_it_cannot_be_tried():
    assert optimizer_bytes(SimpleNamespace(optim="none"), None, []) is None
