"""Rows read without their padding: the states of padded rows, on every family that is named as able to."""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from transformers import CONFIG_MAPPING, AttentionInterface, AutoModel, LlamaModel, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from modeling_biencoder import BiEncoderModel
from modeling_biencoder import packing_biencoder as packing
from modeling_biencoder.packing_biencoder import DECODERS, ENCODERS, can_pack
from tests.support.decoders import SIZES
from tests.support.decoders import backbone as decoder
from tests.support.tiny import random_ids, tiny_tokenizer
from trainers import add_adapter

USUAL = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "gpt2", "opt", "bert", "roberta", "xlm-roberta")
LENGTHS = (3, 1, 9, 6)


def backbone(family: str, **settings) -> PreTrainedModel:
    if family in DECODERS:
        return decoder(family, **settings)
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**{**SIZES, "intermediate_size": 64, "initializer_range": 0.3, **settings})
    return AutoModel.from_config(config).eval()


def biencoder(family: str, pooling: str = "mean", bidirectional: bool = False, **settings) -> BiEncoderModel:
    tokenizer = tiny_tokenizer()
    return BiEncoderModel.from_backbone(
        backbone(family, **settings), tokenizer, pooling=pooling, bidirectional=bidirectional
    )


def rows(left: bool = False, lengths=LENGTHS, padding: int = 2) -> dict[str, torch.Tensor]:
    longest = max(lengths)
    mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
    mask = mask.flip(1) if left else mask
    return {"input_ids": random_ids(len(lengths), longest).where(mask != 0, padding), "attention_mask": mask}


def alone(model: BiEncoderModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Each row by itself, without padding."""
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return torch.cat([model.embed(ids[mask != 0][None]) for ids, mask in pairs])


@pytest.fixture
def packed(monkeypatch) -> list[bool]:
    """Whether each call of `embed` left the padding out."""
    found: list[bool] = []

    def noted(model, batch):
        found.append(can_pack(model, batch))
        return found[-1]

    monkeypatch.setattr("modeling_biencoder.modeling_biencoder.can_pack", noted)
    return found


def usual_first(families) -> list:
    return [family if family in USUAL else pytest.param(family, marks=pytest.mark.slow) for family in families]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("family", usual_first((*DECODERS, *ENCODERS)))
@torch.no_grad()
def test_embeddings_are_those_of_the_rows_alone(family: str, bidirectional: bool, packed) -> None:
    if family in ENCODERS and bidirectional:
        pytest.skip("an encoder sees both ways as it is")
    model = biencoder(family, bidirectional=bidirectional)
    window = getattr(model.config.text_config, "sliding_window", None)
    for left in (False, True):
        batch = rows(left, lengths=LENGTHS if window is None else (window, 1, window - 1))
        packed.clear()
        together = model.embed(**batch)
        assert packed == [True]
        torch.testing.assert_close(together, alone(model, batch), rtol=0, atol=2e-6)
    assert model.config.text_config._attn_implementation == "sdpa"


@pytest.mark.cases(2)
@pytest.mark.parametrize("pooling", ["last_token", "cls", "mean", "mean_last_k"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "bert", "roberta"])
def test_gradients_are_those_of_padded_rows(family: str, pooling: str, monkeypatch) -> None:
    batch, found = rows(), []
    for pack in (True, False):
        model = biencoder(family, pooling)
        if not pack:
            monkeypatch.setattr("modeling_biencoder.modeling_biencoder.can_pack", lambda *_: False)
        embedded = model.embed(**batch)
        (embedded * torch.arange(embedded.numel()).view_as(embedded).cos()).sum().backward()
        found.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_an_adapter_trains_so_and_another_process_reads_so(family: str, tmp_path, packed) -> None:
    model, batch = biencoder(family), rows()
    model.save_pretrained(tmp_path / "repo")
    again = BiEncoderModel.from_pretrained(tmp_path / "repo").eval()
    with torch.no_grad():
        assert torch.equal(again.embed(**batch), model.embed(**batch))
    targets = ["q_proj"] if family == "llama" else ["query"]
    add_adapter(again, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    again.embed(**batch).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(again.embed(**batch), alone(again, batch), rtol=0, atol=2e-6)
    gradients = [one.grad.abs().sum() for name, one in again.named_parameters() if "lora_B" in name]
    assert gradients and all(gradient > 0 for gradient in gradients)
    assert packed[:4] == [True] * 4


def flash(module: nn.Module, query, key, value, attention_mask, scaling=None, **kwargs):
    """What FlashAttention computes of rows in one, by its own arguments."""
    assert attention_mask is None and query.shape[0] == 1
    starts = kwargs["cu_seq_lens_q"]
    assert starts.dtype == torch.int32 and torch.equal(starts, kwargs["cu_seq_lens_k"])
    lengths = starts.diff()
    assert kwargs["max_length_q"] == kwargs["max_length_k"] == lengths.max()
    rows = packing.PackedRows(lengths.tolist(), module.is_causal)
    return packing._attend_by_row(query, key, value, rows, scaling=scaling)


@pytest.mark.parametrize("family", usual_first((*DECODERS, *ENCODERS)))
@torch.no_grad()
def test_flash_attention_is_told_where_rows_begin(family: str, monkeypatch, packed) -> None:
    """FlashAttention itself runs on a GPU alone; here a function in its place checks what it is given."""
    model, batch = biencoder(family, **({"sliding_window": 16} if family in DECODERS else {})), rows()
    expected = model.embed(**batch)
    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", flash)
    model.backbone.config._attn_implementation_internal = "flash_attention_2"
    torch.testing.assert_close(model.embed(**batch), expected, rtol=0, atol=2e-6)
    assert packed == [True, True]


def test_what_reads_padded_rows() -> None:
    llama, batch = biencoder("llama"), rows()
    assert can_pack(llama, batch)
    assert not can_pack(llama, rows(lengths=(4, 4)))  # nothing to leave out
    assert not can_pack(llama, rows(lengths=(4, 0)))  # a row that the check of inputs refuses
    assert not can_pack(llama, {**batch, "position_ids": batch["input_ids"]})
    eager = copy.deepcopy(llama)
    eager.backbone.set_attn_implementation("eager")
    assert not can_pack(eager, batch)
    flash_both_ways = biencoder("llama", bidirectional=True)
    flash_both_ways.backbone.config._attn_implementation_internal = "flash_attention_2"
    assert not can_pack(flash_both_ways, batch)
    assert can_pack(biencoder("mistral"), rows(lengths=(3, 2)))
    assert not can_pack(biencoder("mistral"), rows(lengths=(4, 2)))  # longer than the window of a layer
    on_gpu = {name: tensor.to("meta") for name, tensor in batch.items()}
    assert not can_pack(llama, on_gpu)
    compiled = biencoder("llama")
    compiled.backbone.compile()
    assert not can_pack(compiled, batch)
    wrapped = biencoder("llama")
    wrapped.backbone = torch.compile(wrapped.backbone)
    assert not can_pack(wrapped, batch)
    other = BiEncoderModel.from_backbone(decoder("falcon"), tiny_tokenizer(), pooling="mean")
    assert not can_pack(other, batch)


@torch.no_grad()
def test_a_token_that_is_the_paddings_in_a_text() -> None:
    """RoBERTa gives it no place of its own, wherever it stands."""
    model, batch = biencoder("roberta"), rows()
    batch["input_ids"][2, 4] = model.backbone.config.pad_token_id
    states = model.backbone(**batch)[0]
    found = packing.read_packed(model, **batch)
    torch.testing.assert_close(found[batch["attention_mask"] != 0], states[batch["attention_mask"] != 0])


@pytest.mark.parametrize("attention, read", [("sdpa", 1), ("other", 2)])
@torch.no_grad()
def test_a_layer_with_a_configuration_of_its_own(attention: str, read: int, packed, monkeypatch) -> None:
    """One that attends otherwise has not gone by rows: all is read again, padded."""
    model, batch, calls = biencoder("llama"), rows(), []
    expected = alone(model, batch)
    monkeypatch.setitem(AttentionInterface._global_mapping, "other", sdpa_attention_forward)
    own = model.backbone.layers[1].self_attn
    own.config = copy.deepcopy(own.config)
    own.config._attn_implementation_internal = attention
    model.backbone.register_forward_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(model.embed(**batch), expected, rtol=0, atol=2e-6)
    assert packed[-1] and len(calls) == read


@pytest.mark.cases(2)
@pytest.mark.parametrize("how", ["whole layers", "reentrant", "torch", "torch, reentrant"])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_layers_that_are_run_again_for_their_gradient(family: str, how: str, packed) -> None:
    batch, found = rows(), []
    for again in (False, True):
        model = biencoder(family).train()
        layers = model.backbone.layers if family == "llama" else model.backbone.encoder.layer
        if again and how.startswith("torch"):
            kind = CheckpointImpl.REENTRANT if "reentrant" in how else CheckpointImpl.NO_REENTRANT
            for number, layer in enumerate(layers):  # as accelerate does for FSDP
                layers[number] = checkpoint_wrapper(layer, kind, preserve_rng_state=False)
            model.backbone.get_input_embeddings().register_forward_hook(lambda *args: args[-1].requires_grad_())
        elif again:
            settings = {"use_reentrant": how == "reentrant"}
            model.backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        embedded = model.embed(**batch)
        (embedded * torch.arange(embedded.numel()).view_as(embedded).cos()).sum().backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        found.append({name.replace("_checkpoint_wrapped_module.", ""): one for name, one in gradients.items()})
    assert packed == [True, True] and found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-5, msg=name)


@torch.no_grad()
def test_threads_that_share_a_model() -> None:
    model, batch, found = biencoder("llama"), rows(), []
    expected = model.embed(**batch)

    def work() -> None:
        found.extend(model.embed(**batch) for _ in range(40))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as pool:
            for done in [pool.submit(torch.no_grad()(work)) for _ in range(3)]:
                done.result()
    finally:
        sys.setswitchinterval(interval)
    assert len(found) == 120 and all(torch.equal(one, expected) for one in found)


class OwnMask(LlamaModel):
    """As a repo's code makes it of a decoder: tokens see both ways, and the family's name stays."""

    def forward(self, input_ids, attention_mask, **kwargs):
        mask = attention_mask.bool() if attention_mask.dim() == 4 else attention_mask[:, None, None].bool()
        return super().forward(input_ids, mask.expand(-1, -1, input_ids.shape[1], -1), **kwargs)


def two_way_by_its_configuration(family: str) -> BiEncoderModel:
    backbone_of_two = decoder(family)
    BiEncoderModel.from_backbone(backbone_of_two, tiny_tokenizer(), pooling="mean", bidirectional=True)
    return BiEncoderModel.from_backbone(backbone_of_two, tiny_tokenizer(), pooling="mean")


OTHERWISE = {
    "config.is_causal of llama": lambda: two_way_by_its_configuration("llama"),
    "config.is_causal of qwen2": lambda: two_way_by_its_configuration("qwen2"),
    "EmbeddingGemma": lambda: biencoder("gemma3_text", use_bidirectional_attention=True, sliding_window=64),
    "a decoder of BERT": lambda: biencoder("bert", is_decoder=True),
    "a decoder of RoBERTa": lambda: biencoder("roberta", is_decoder=True),
    "a class of a repo": lambda: BiEncoderModel.from_backbone(
        OwnMask(decoder("llama").config).eval(), tiny_tokenizer(), pooling="mean"
    ),
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", OTHERWISE)
@torch.no_grad()
def test_a_family_that_attends_otherwise_than_its_name_says(name: str) -> None:
    model, batch = OTHERWISE[name](), rows()
    torch.testing.assert_close(model.embed(**batch), alone(model, batch), rtol=0, atol=2e-6)
    shared = "a long beginning that all of the texts have " * 4
    texts = [shared + end for end in ("and one", "two", "and then three more words")]
    together = model.encode(texts)
    one_by_one = torch.cat([model.encode([text]) for text in texts])
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=2e-6)


def test_noise_and_adapters_that_go_by_rows_read_padded_rows() -> None:
    model, batch = biencoder("llama").train(), rows()
    model.backbone.get_input_embeddings().neftune_noise_alpha = 5.0  # as the Trainer sets it
    assert not can_pack(model, batch)
    assert can_pack(model.eval(), batch)
    wrapped = get_peft_model(biencoder("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    wrapped.eval()
    with torch.no_grad():
        mixed = wrapped(**batch, adapter_names=["default", "__base__", "default", "__base__"]).embeddings
        torch.testing.assert_close(mixed[[0, 2]], wrapped(**batch).embeddings[[0, 2]], rtol=0, atol=2e-6)


@torch.no_grad()
def test_a_trace_holds_for_other_lengths() -> None:
    model = biencoder("bert").requires_grad_(False)
    traced = torch.jit.trace(lambda ids, mask: model.embed(ids, mask), tuple(rows().values()), check_trace=False)
    other = rows(lengths=(7, 2, 5, 4))
    torch.testing.assert_close(traced(*other.values()), model.embed(**other), rtol=0, atol=2e-6)
