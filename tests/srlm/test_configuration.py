"""SelfRetrievalConfig: a value of the wrong type or out of its range is refused, and named."""

import pytest

from modeling_srlm import SelfRetrievalConfig


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"key_nmu": 2}, ValueError, "SelfRetrievalConfig has no keyword 'key_nmu': did you mean 'key_num'"),
        ({"retrieval_method": "bm26"}, ValueError, "retrieval_method='bm26' is not known: .*Did you mean 'bm25'"),
        ({"key_num": 0}, ValueError, "key_num=0 must be at least 1"),
        ({"key_num": True}, TypeError, "key_num=True must be a whole number"),
        ({"key_num": "2"}, TypeError, "key_num='2' must be a whole number"),
        ({"chunk_size": 2.5}, TypeError, "chunk_size=2.5 must be a whole number"),
        ({"target_size": float("nan")}, TypeError, "target_size=nan must be None or a whole number"),
        ({"fusion_constant": None}, TypeError, "fusion_constant=None must be a whole number"),
        ({"add_key_continuation": 1}, TypeError, "add_key_continuation=1 must be True or False"),
        ({"add_bos": "no"}, TypeError, "add_bos='no' must be True or False"),
        ({"bm25_k1": float("inf")}, ValueError, "bm25_k1=inf must be a finite number"),
        ({"bm25_b": "0.75"}, TypeError, "bm25_b='0.75' must be a finite number"),
        ({"add_sep": "\n"}, TypeError, "must be None or a list of whole numbers, not str"),
        ({"add_sep": []}, ValueError, "at least 1 and fewer than a value's 128 tokens"),
        ({"add_sep": [3, -1]}, ValueError, "add_sep holds -1"),
    ],
)
def test_bad_settings_are_named(settings, error, message):
    with pytest.raises(error, match=message):
        SelfRetrievalConfig(**settings)


def test_a_value_that_was_changed_is_checked_again():
    config = SelfRetrievalConfig(context_window_size=256, chunk_size=16, key_num=2, target_size=None)
    config.key_num = 2.0
    with pytest.raises(TypeError, match=r"key_num=2\.0 must be a whole number"):
        config.check()
