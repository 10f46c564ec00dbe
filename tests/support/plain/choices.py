"""Whether a self-retrieval LM retrieved what the plain scores say; where rounding ranks two keys, either may come."""

from .srlm import Reader

CLOSE = 1e-5  # of two scores: either may come first


def check_choice(ours: list[int], scores: list[float], k: int, rounded: bool = False) -> None:
    """The k best, the best first, of equal ones the earlier; where rounding may rank, either.

    `rounded`: equal texts may differ by a rounding, as a batch may encode each at another place.
    """
    best = sorted(range(len(scores)), key=lambda key: (-scores[key], key))[:k]
    chosen = [key for key in ours if key >= 0]
    assert ours == chosen + [-1] * (k - len(chosen)) and len(set(chosen)) == len(chosen) == len(best)
    for key, right in zip(chosen, best, strict=True):
        apart = abs(scores[key] - scores[right])
        assert key == right or (apart < CLOSE and (rounded or apart > 0)), (ours, best, scores)


def check_fused(ours: list[int], scores: list[tuple[float, float]], k: int) -> None:
    """As `check_choice`, of keys whose scores lie between two figures."""
    chosen = [key for key in ours if key >= 0]
    assert ours == chosen + [-1] * (k - len(chosen)) and len(set(chosen)) == len(chosen) == min(k, len(scores))
    for number, key in enumerate(chosen):
        for other in set(range(len(scores))) - set(chosen[: number + 1]):
            sure = scores[key][0] == scores[key][1] and scores[other][0] == scores[other][1]
            equal = abs(scores[other][0] - scores[key][1]) < 1e-7  # of float32
            assert scores[other][0] < scores[key][1] or (equal and (not sure or key < other)), (ours, scores)


def check_set(reader: Reader, ids: list, labels: list, target: int, stop: int, ours: list[int]) -> None:
    """The best key, then the key that helps most beside it, as long as one helps; where rounding may rank, either."""
    chosen = [key for key in ours if key >= 0]
    assert ours == chosen + [-1] * (len(ours) - len(chosen)) and len(set(chosen)) == len(chosen)
    before = float("-inf")
    for number in range(len(ours)):
        others = [key for key in range(reader.keys(stop)) if key not in chosen[:number]]
        found = {key: reader.likelihood(ids, labels, target, stop, [*chosen[:number], key]) for key in others}
        best = max(found.values(), default=float("-inf"))
        if number == len(chosen):
            assert best <= before + CLOSE, (ours, found, before)
            return
        best_keys = [key for key in others if found[key] == best]
        assert chosen[number] == best_keys[0] or 0 < best - found[chosen[number]] < CLOSE, (ours, found)
        assert best > before - CLOSE
        before = found[chosen[number]]
