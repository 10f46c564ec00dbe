"""The picture of the two-stream mask shows what the model does."""

import pytest
import torch

from docs import draw_two_stream_mask
from docs.draw_two_stream_mask import PICTURE, draw, row_mask
from modeling_llara import LlaraForPreTraining, build_row
from modeling_llara.masking_llara import PREDICT, SUMMARIZE
from tests.support.tiny import tiny_backbone, tiny_tokenizer

TEXT = "the copper lantern"


@pytest.fixture(scope="module")
def model():
    backbone = tiny_backbone("llama", attn_implementation="eager")
    return LlaraForPreTraining.from_backbone(
        backbone, tiny_tokenizer(), num_summary_tokens=3, num_predict_tokens=3
    ).eval()


@torch.no_grad()
def test_a_cell_is_coloured_where_the_model_attends(model):
    row = row_mask(model, TEXT)
    ids = build_row(model.config, model.tokenizer(TEXT, add_special_tokens=False)["input_ids"])["input_ids"]
    attentions = model(torch.tensor([ids]), output_attentions=True).attentions
    attended = torch.stack(attentions).amax(dim=(0, 1, 2)) > 0  # (L, L), over layers, row and heads
    (image,) = draw(row).axes[0].images
    drawn = torch.as_tensor(image.get_array().filled())
    assert torch.equal(drawn > 0, attended)
    assert torch.equal(drawn.diagonal() - 1, row.streams)
    assert not attended[row.streams == PREDICT][:, row.streams == SUMMARIZE].any()


def test_the_labels_are_the_tokens_and_their_positions(model):
    row = row_mask(model, TEXT)
    axes = draw(row).axes[0]
    labels = [label.get_text().split() for label in axes.get_yticklabels()]
    first = {stream: int((row.streams == stream).long().argmax()) for stream in (SUMMARIZE, PREDICT)}
    assert [int(label[-1]) for label in labels] == row.positions.tolist()
    assert labels[first[SUMMARIZE]][-1] == labels[first[PREDICT]][-1]
    assert [label[0] for label in labels[-3:]] == ["<|predict_1|>", "<|predict_2|>", "<|predict_3|>"]


def test_the_command_draws_the_picture_of_the_page(tmp_path, monkeypatch, capsys):
    output = tmp_path / "mask.png"
    monkeypatch.setattr("sys.argv", ["draw_two_stream_mask", "--output", str(output)])
    draw_two_stream_mask.main()
    assert capsys.readouterr().out.strip() == str(output)
    assert output.read_bytes()[:8] == PICTURE.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert PICTURE.stat().st_size < 100_000
    assert f"](images/{PICTURE.name})" in (PICTURE.parents[1] / "llara.md").read_text(encoding="utf-8")
