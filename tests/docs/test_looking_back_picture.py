"""The picture of the two modes shows what the model does."""

import pytest
import torch

from docs.draw_looking_back import COMPUTED, KEPT, PICTURE, UNSEEN, build, cells, draw

CHUNKS = 16


@pytest.fixture(scope="module")
def modes():
    model = build()
    model.config.context_window_size = 128
    tokens = torch.randint(10, 60, (CHUNKS * model.config.chunk_size,), generator=torch.Generator().manual_seed(0))
    return {reuse: cells(model, tokens, reuse) for reuse in (False, True)}


def test_a_chunk_is_computed_once_with_kept_states_and_with_all_it_sees_without(modes):
    assert torch.equal((modes[True] == COMPUTED).nonzero(), torch.arange(CHUNKS).expand(2, -1).T)
    assert not (modes[False] == KEPT).any()
    assert (modes[False] == COMPUTED).sum() > 4 * CHUNKS


@pytest.mark.parametrize("reuse", [False, True])
def test_nothing_ahead_is_seen_and_the_window_is_whole(modes, reuse):
    seen = modes[reuse] != UNSEEN
    assert not seen.triu(1).any()
    width = 5 if reuse else 4  # chunks of the window; the kept ones and the chunk itself behind them
    assert all(seen[chunk, max(chunk - width + 1, 0) : chunk + 1].all() for chunk in range(CHUNKS))
    assert seen[-1].sum() > width  # something was looked back at


def test_the_page_shows_it(modes):
    assert [axes.get_title().splitlines()[1] for axes in draw(modes).axes][1] == "512 tokens computed for 512"
    assert f"](images/{PICTURE.name})" in (PICTURE.parents[1] / "self_retrieval.md").read_text(encoding="utf-8")
    assert PICTURE.stat().st_size < 100_000
