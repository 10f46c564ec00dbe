"""The losses against their plain definitions: values, gradients, empty sets, and what is never materialised."""

import math

import pytest
import torch
from torch.nn import functional

from modeling_llara.loss_llara import autoregressive_loss, bag_of_words_loss, combine_losses, is_plain
from tests.support.llara import plain_bag_of_words

VOCABULARY = 50
IGNORED = torch.tensor([0, 1])


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


class Wrapped(torch.nn.Module):
    """A head that must be called, like one with an adapter."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear
        self.rows = []  # of each call

    def forward(self, states):
        self.rows.append(len(states))
        return self.linear(states)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 5, 7, 1000])
def test_autoregressive_loss_and_gradient_are_exact_in_chunks(chunk_size, called, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, VOCABULARY, bias=bias)
    head = Wrapped(linear) if called else linear
    states = torch.randn(3, 9, 16, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, (3, 9)).masked_fill(torch.rand(3, 9) < 0.3, -100)
    plain = functional.cross_entropy(head(states)[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss = autoregressive_loss(states, labels, head, chunk_size)
    inputs = [states, *linear.parameters()]
    assert loss.item() == pytest.approx(plain.item(), rel=1e-6)
    for ours, wanted in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(plain, inputs), strict=True):
        assert wanted.abs().max() > 1e-4
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)


def test_only_label_rows_reach_the_head():
    head = Wrapped(torch.nn.Linear(4, VOCABULARY))
    labels = torch.full((2, 30), -100)
    labels[0, 5:16] = 3  # 11 labelled tokens of 60
    autoregressive_loss(torch.randn(2, 30, 4), labels, head, chunk_size=4)
    assert head.rows == [4, 4, 3]


def test_a_head_that_something_hangs_on_is_called():
    """A weight that hooks bring, that another class stands for or that autocast casts is not read."""
    states, head = torch.randn(2, 4), torch.nn.Linear(4, VOCABULARY)
    assert is_plain(head, states)
    assert not is_plain(head, states.bfloat16())
    assert not is_plain(torch.nn.Linear(4, VOCABULARY).bfloat16(), states.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_plain(head, states)
    seen = []
    handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    labels = torch.full((1, 8), 3)
    hooked = autoregressive_loss(torch.ones(1, 8, 4), labels, head)
    handle.remove()
    assert seen == [7]
    torch.testing.assert_close(hooked, autoregressive_loss(torch.ones(1, 8, 4), labels, head), rtol=1e-6, atol=0)
    head.forward = head.forward  # as accelerate does
    assert not is_plain(head, states)
    assert not is_plain(torch.nn.modules.linear.NonDynamicallyQuantizableLinear(4, 5), states)


def test_half_precision_sums_in_float32():
    torch.manual_seed(0)
    head = torch.nn.Linear(16, VOCABULARY, bias=False).bfloat16()
    states, labels = torch.randn(1, 600, 16).bfloat16(), torch.randint(0, VOCABULARY, (1, 600))
    loss = autoregressive_loss(states, labels, head)
    exact = functional.cross_entropy((states.float() @ head.weight.float().T)[0, :-1], labels[0, 1:])
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)  # a sum in bfloat16 is 7e-3 off


@pytest.mark.parametrize("called", [True, False])
def test_no_labels_at_all_give_zero_and_a_zero_gradient(called):
    states, linear = torch.randn(2, 5, 4, requires_grad=True), torch.nn.Linear(4, VOCABULARY)
    loss = autoregressive_loss(states, torch.full((2, 5), -100), Wrapped(linear) if called else linear)
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(states.grad, torch.zeros_like(states))
    assert torch.equal(linear.weight.grad, torch.zeros_like(linear.weight))  # there: DDP waits for every gradient


def test_an_empty_prompt_does_not_halve_the_other():
    full, empty = (torch.tensor(6.0), torch.tensor(2)), (torch.tensor(0.0), torch.tensor(0))
    assert combine_losses(None, [full, empty], 1.0, 0.1).item() == pytest.approx(0.6)
    assert combine_losses(torch.tensor(3.0), [full, full], 2.0, 0.5).item() == pytest.approx(9.0)
    assert combine_losses(None, [empty, empty], 1.0, 0.1).item() == 0.0
    assert combine_losses(None, [], 1.0, 0.1) is None
