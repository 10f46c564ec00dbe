"""The whole model's losses against a plain computation from all logits: values, gradients, memory, empty targets."""

import pytest
import torch
import transformers
from peft import LoraConfig
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from modeling_llara import LlaraForPreTraining
from modeling_llara.loss_llara import CHUNK_SIZE
from tests.support.llara import batch_of, plain_bag_of_words
from tests.support.tiny import FAMILIES, tiny_backbone, tiny_tokenizer
from trainers import add_adapter


def adapted(family: str = "llama", **config) -> LlaraForPreTraining:
    if family != "granite":  # which scales its logits
        return LlaraForPreTraining.from_backbone(tiny_backbone(family, **config), tiny_tokenizer())
    settings = transformers.GraniteConfig(**FAMILIES["llama"][1], logits_scaling=4.0, initializer_range=0.2)
    return LlaraForPreTraining.from_backbone(
        transformers.AutoModelForCausalLM.from_config(settings).eval(), tiny_tokenizer()
    )


def plain_loss(model, batch) -> torch.Tensor:
    """From the logits of every position, special tokens found by their ids, row by row."""
    config, logits = model.config, model(batch["input_ids"], batch["attention_mask"], output_logits=True).logits
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten())
    for name in ("summarize", "predict"):
        special = torch.isin(batch["input_ids"], torch.tensor(getattr(config, f"{name}_token_ids")))
        rows = torch.stack([row[there] for row, there in zip(logits, special, strict=True)])
        words = plain_bag_of_words(rows, batch[f"output_{name}_ids"], torch.tensor(config.ignored_target_ids))
        loss = loss + config.bow_loss_weight * words / 2
    return loss


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", ["llama", "gpt2", "granite"])
def test_loss_and_every_gradient_are_those_of_all_logits(family):
    model = adapted(family)
    batch = batch_of(model, (40, 25, 7))
    batch["output_predict_ids"][1] = -100  # a row without a target
    values, gradients = [], []
    for compute in (lambda: model(**batch).loss, lambda: plain_loss(model, batch)):
        model.zero_grad()
        loss = compute()
        loss.backward()
        values.append(loss.item())
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert max(value.abs().max() for value in gradients[1].values()) > 1e-2
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5)


def largest_allocation(compute) -> int:
    """Bytes of the largest tensor that comes into being, as torch's allocator sees it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute()
    events = profiler.profiler.kineto_results.events()
    return max(event.nbytes() for event in events if event.name() == "[memory]")


@pytest.mark.cases(1)
@pytest.mark.parametrize("head", ["plain", "adapter"])
def test_logits_of_the_whole_row_never_exist(head):
    """Forward and backward: a chunk's logits are the largest tensor there is."""
    model = adapted(vocab_size=8192)
    if head == "adapter":
        add_adapter(model, LoraConfig(r=4), model.config.summarize_token_ids)
    batch = batch_of(model, (300, 300, 200, 250))  # 1,050 labelled tokens in 4 rows of 400
    row_of_logits = 4 * model.config.text_config.vocab_size
    ours = largest_allocation(lambda: model(**batch).loss.backward()) / row_of_logits
    assert ours <= CHUNK_SIZE
    everything = largest_allocation(lambda: model(**batch, output_logits=True)) / row_of_logits
    assert everything == batch["input_ids"].numel() > 4 * CHUNK_SIZE  # the measure sees them where they are


@pytest.mark.cases(2)
@pytest.mark.parametrize("weighting", ["fixed", "uncertainty"])
@pytest.mark.parametrize("missing", [("labels",), ("output_summarize_ids", "output_predict_ids"), "all"])
def test_whole_batches_without_targets(missing, weighting):
    """They contribute nothing: the loss and gradient are those of the rest, and there is no NaN."""
    model = LlaraForPreTraining.from_backbone(tiny_backbone(), tiny_tokenizer(), loss_weighting=weighting)
    batch = batch_of(model, (20, 9))
    names = ("labels", "output_summarize_ids", "output_predict_ids") if missing == "all" else missing
    empty = {**batch, **{name: torch.full_like(batch[name], -100) for name in names}}
    rest = {name: value for name, value in batch.items() if name not in names}
    output = model(**empty)
    output.loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    assert all(value.isfinite().all() for value in gradients.values())
    if missing == "all":
        assert output.loss.item() == 0.0
        assert not any(value.any() for value in gradients.values())
        assert model(**rest).loss is None
        return
    model.zero_grad()
    alone = model(**rest).loss
    alone.backward()
    assert output.loss.item() == pytest.approx(alone.item(), rel=1e-6)
    wanted = {name: weight.grad for name, weight in model.named_parameters()}
    assert max(value.abs().max() for value in wanted.values()) > 1e-3
    torch.testing.assert_close(gradients, wanted, rtol=0, atol=1e-7)
