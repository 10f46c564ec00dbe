"""The losses against their plain definitions: values, gradients, empty sets, and what is never materialised."""

import math

import pytest
import torch
from torch.nn import functional

from modeling_llara.loss_llara import autoregressive_loss, bag_of_words_loss, combine_losses

VOCABULARY = 50
IGNORED = torch.tensor([0, 1])


def plain_bag_of_words(logits, targets, ignored):
    """Row by row, as the definition reads."""
    losses = []
    for row, ids in zip(logits, targets, strict=True):
        words = {int(i) for i in ids if i >= 0} - set(ignored.tolist())
        if words:
            log_probabilities = row.max(0).values.log_softmax(-1)
            losses.append(-log_probabilities[sorted(words)].mean())
    return torch.stack(losses).mean()


def test_bag_of_words_is_the_definition():
    torch.manual_seed(0)
    logits = torch.randn(4, 8, VOCABULARY, requires_grad=True)
    targets = torch.randint(-1, 9, (4, 12))  # many repeats, some padding, some ignored ids
    targets[2] = torch.tensor([0, 1, -100] * 4)  # no target at all
    loss, rows = bag_of_words_loss(logits, targets, IGNORED)
    plain = plain_bag_of_words(logits, targets, IGNORED)
    ours, wanted = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(plain, logits)[0]
    assert rows == 3
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-7)


def test_uniform_logits_give_log_vocabulary():
    loss, _ = bag_of_words_loss(torch.zeros(2, 8, VOCABULARY), torch.tensor([[3, 4], [5, 5]]), IGNORED)
    assert loss.item() == pytest.approx(math.log(VOCABULARY))


def test_rows_without_targets_give_zero_and_no_nan():
    logits = torch.randn(2, 8, VOCABULARY, requires_grad=True)
    loss, rows = bag_of_words_loss(logits, torch.tensor([[0, -100], [1, 1]]), IGNORED)
    loss.backward()
    assert (loss.item(), rows.item()) == (0.0, 0)
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("chunk_size", [1, 5, 7, 1000])
def test_autoregressive_loss_and_gradient_are_exact_in_chunks(chunk_size):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, VOCABULARY)
    states = torch.randn(3, 9, 16, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, (3, 9)).masked_fill(torch.rand(3, 9) < 0.3, -100)
    plain = functional.cross_entropy(head(states)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss = autoregressive_loss(states, labels, head, chunk_size)
    inputs = [states, head.weight, head.bias]
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for ours, wanted in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, inputs), strict=True):
        assert wanted.abs().max() > 1e-4
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)


def test_only_label_rows_reach_the_head():
    sizes = []

    def head(states):
        sizes.append(len(states))
        return states @ torch.ones(4, VOCABULARY)

    labels = torch.full((2, 30), -100)
    labels[0, 5:16] = 3  # 11 labelled tokens of 60
    autoregressive_loss(torch.randn(2, 30, 4), labels, head, chunk_size=4)
    assert sizes == [4, 4, 3]


def test_no_labels_at_all_give_zero_and_a_zero_gradient():
    states = torch.randn(2, 5, 4, requires_grad=True)
    loss = autoregressive_loss(states, torch.full((2, 5), -100), torch.nn.Linear(4, VOCABULARY))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(states.grad, torch.zeros_like(states))


def test_an_empty_prompt_does_not_halve_the_other():
    full, empty = (torch.tensor(6.0), torch.tensor(2)), (torch.tensor(0.0), torch.tensor(0))
    assert combine_losses(None, [full, empty], 1.0, 0.1).item() == pytest.approx(0.6)
    assert combine_losses(torch.tensor(3.0), [full, full], 2.0, 0.5).item() == pytest.approx(9.0)
    assert combine_losses(None, [empty, empty], 1.0, 0.1).item() == 0.0
    assert combine_losses(None, [], 1.0, 0.1) is None
