"""The benchmark rows of LLaRA at their quick sizes, and the measures that they take."""

import pytest
import torch
from torch.nn import functional

from benchmarks import llara_task
from benchmarks.llara_task import (
    PREDICT,
    SPECIAL,
    SUMMARIZE,
    build_task,
    find_ties,
    our_loss,
    plain_loss,
    same_gradients,
    special_states,
)
from benchmarks.machine import counted, cpu_peak
from benchmarks.options import Options
from benchmarks.reference import load_llara_reference
from benchmarks.rows import load_row

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["llara-memory", "llara-step"])
def test_a_row_of_two_sides(name):
    (outcome,) = load_row(name)(Options(CPU, repeats=1, quick=True))
    assert outcome.row == name and outcome.equal, outcome.check.text
    assert outcome.ratio.median > 0 and outcome.verdict == "-"
    assert name == "llara-step" or outcome.ratio.median > 2


@pytest.mark.parametrize("name", ["llara-memory", "llara-step"])
def test_a_loss_that_differs_is_no_ratio(name, monkeypatch):
    monkeypatch.setattr(llara_task, "BOW_WEIGHT", 0.1001)  # in the losses; the model's own is not asked
    right = llara_task.combine_losses
    monkeypatch.setattr(llara_task, "combine_losses", lambda ar, words, *_: right(ar, words, 1.0, 0.1))
    (outcome,) = load_row(name)(Options(CPU, repeats=1, quick=True))
    assert outcome.verdict == "FAIL" and "apart" in outcome.check.text


def test_the_sides_compute_the_models_own_loss():
    task = build_task("quick", CPU, 2, 128)
    task.model.eval()
    targets = {"output_summarize_ids": task.summarize_ids, "output_predict_ids": task.predict_ids}
    output = task.model(task.input_ids, labels=task.labels, output_hidden_states=True, **targets)
    assert task.input_ids.shape == (2, 128)
    assert (task.labels[:, : -SUMMARIZE - PREDICT] >= 0).all() and task.model.config.num_predict_tokens == SPECIAL
    for loss in (our_loss(task), plain_loss(task)):
        assert loss(output.hidden_states[-1], task.head).item() == pytest.approx(output.loss.item(), rel=1e-6)


def test_a_gradient_that_is_nan_is_not_equal():
    one, nan = torch.ones(2), torch.tensor([1.0, float("nan")])
    assert same_gradients({"loss": one, "head": one}, {"loss": one, "head": one}).equal
    assert not same_gradients({"loss": one, "head": nan}, {"loss": one, "head": one}).equal
    assert not same_gradients({"loss": one, "head": one * 1.001}, {"loss": one, "head": one}).equal


def test_what_lies_between_two_orders_of_addition_is_what_ties_move_and_nothing_else():
    """Two special tokens share a word's highest logit; float32's rounding gives it to one or the other."""
    task = build_task("quick", CPU, 2, 128)
    states, weight = torch.randn(2, 128, 32, generator=torch.Generator().manual_seed(0)), task.head.weight.detach()
    rows, word = special_states(states)[0], 7
    first, second, third = (rows[0] @ weight[word]).argsort(descending=True)[:3].tolist()
    rows[0, second] += (rows[0, first] - rows[0, second]) @ weight[word] * weight[word] / weight[word].square().sum()

    def gradients(loss, raised=None, by=0.0):
        given, head = states.clone().requires_grad_(), torch.nn.Linear(32, 512, bias=False)
        head.weight = torch.nn.Parameter(weight.clone())

        def rounded(rows):
            logits = head(rows)
            if raised is not None and rows.shape[1] == 128:
                special_states(logits.data)[0][0, raised, word] += by
            return logits

        value = loss(given, head if raised is None else rounded)
        value.backward()
        return {"loss": value.detach(), "states": given.grad, "head": head.weight.grad}

    ties = find_ties(task, states)
    ours = gradients(our_loss(task))
    one, other = (gradients(plain_loss(task), position, 1e-6) for position in (first, second))
    assert ties.count >= 1 and not same_gradients(one, other).equal
    for side in (ours, one):
        check = same_gradients(side, other, ties)
        assert check.equal and f"beside {ties.count} words whose maximum is tied" in check.text, check.text
    gap = ((rows[0, first] - rows[0, third]) @ weight[word]).item()
    wrong = gradients(plain_loss(task), third, gap + 1e-4)  # a token that is no part of the tie takes it
    assert not same_gradients(ours, wrong, ties).equal


def test_nothing_may_move_where_nothing_is_tied():
    task = build_task("quick", CPU, 2, 128)
    states = torch.randn(2, 128, 32, generator=torch.Generator().manual_seed(1))
    ties = find_ties(task, states)
    tied = {name: int((moved.abs().amax(-1) > 0).sum()) for name, moved in ties.moved.items()}
    assert ties.count < 10 and tied["head"] <= ties.count and tied["states"] <= 2 * ties.count


def test_cpu_peak_is_what_is_held_at_once():
    def hold() -> None:
        first = torch.empty(1000, 256)  # 4 bytes each
        del first
        second, third = torch.empty(2000, 256), torch.empty(500, 256)
        del second, third

    assert cpu_peak(hold) == 2500 * 256 * 4


def test_the_fused_loss_counts_as_its_three_products():
    states, weight = torch.randn(64, 16, requires_grad=True), torch.randn(100, 16, requires_grad=True)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=16, chunking_method=None)
    targets = torch.zeros(64, dtype=torch.long)
    _, flops = counted(lambda: functional.linear_cross_entropy(states, weight, targets, options=options).backward())
    assert flops == 3 * 2 * 64 * 100 * 16


def test_a_path_that_is_no_checkout(tmp_path):
    with pytest.raises(ValueError, match="has no research/LLARA; give the path of a FlagEmbedding checkout"):
        load_llara_reference(tmp_path)
