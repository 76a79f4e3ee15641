"""What a search by codes would lose: that a look-up is the product it stands for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.errors import BadInput
from model.product_codes import Codes, quantised


def unit(n: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, 32)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("items", "near"), [(1, 1e-5), (255, 1e-5), (2000, 0.35)])
def test_a_look_up_is_the_product_with_what_the_code_stands_for(items: int, near: float) -> None:
    contents = unit(items, 0)
    codes, centroids = quantised(contents, width=4)
    assert codes.shape == (items, 8)
    assert codes.dtype == np.uint8
    stands_for = np.concatenate([centroids[part][codes[:, part]] for part in range(8)], axis=1)
    nodes = unit(6, 1).reshape(2, 3, 32)
    asked = np.random.default_rng(2).integers(0, items + 1, (2, 50))  # `items` is padding
    found = Codes(torch.from_numpy(codes), torch.from_numpy(centroids)).likeness(
        torch.from_numpy(nodes), torch.from_numpy(asked)
    )
    there = (asked < items)[:, None, :].repeat(3, axis=1)
    taken = np.minimum(asked, items - 1)
    np.testing.assert_allclose(found[there], np.einsum("bpc,btc->bpt", nodes, stands_for[taken])[there], atol=1e-5)
    exact = np.einsum("bpc,btc->bpt", nodes, contents[taken])
    assert np.abs(found.numpy() - exact)[there].max(initial=0) < near
    again, _ = quantised(contents, width=4)
    np.testing.assert_array_equal(codes, again)


def test_a_width_that_does_not_divide_a_content_is_named() -> None:
    with pytest.raises(BadInput, match="width = 5 does not divide the 32 dimensions"):
        quantised(unit(10, 0), width=5)
