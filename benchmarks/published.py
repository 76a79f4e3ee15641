"""Figures that others have published on the same data and the same leave-one-out test item, to stand beside ours.

They are theirs: every item is scored, no tree, and training, tuning and the number of items differ from ours. On MovieLens-1M
they also train on the validation item, as ours never do: generative-recommenders holds out one behavior a user (`ignore_last_n=1`).
"""

from __future__ import annotations

__all__ = ["PUBLISHED", "SOURCES"]

_TIGER = "TIGER (published)"

SOURCES = {
    "movielens-1m": "github.com/facebookresearch/generative-recommenders; full softmax: github.com/NetEase-Media/HSTU-Tensorflow; "
    "trained on the validation item too, which ours are not",
    "amazon-beauty": "Rajput et al., Recommender Systems with Generative Retrieval, NeurIPS 2023, table 1",
    "amazon-sports": "Rajput et al., Recommender Systems with Generative Retrieval, NeurIPS 2023, table 1",
    "amazon-toys": "Rajput et al., Recommender Systems with Generative Retrieval, NeurIPS 2023, table 1",
}
"""Data set -> where its published figures are from."""

PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    "movielens-1m": {
        "SASRec (published)": {"recall@10": 0.2853, "recall@50": 0.5474, "recall@200": 0.7528, "ndcg@10": 0.1603},
        "HSTU (published)": {"recall@10": 0.3097, "recall@50": 0.5754, "recall@200": 0.7716, "ndcg@10": 0.1720},
        "HSTU-large (published)": {"recall@10": 0.3294, "recall@50": 0.5935, "recall@200": 0.7839, "ndcg@10": 0.1893},
        "HSTU, full softmax (published)": {"recall@10": 0.3419, "recall@100": 0.709, "ndcg@10": 0.1944},
    },
    "amazon-beauty": {_TIGER: {"recall@5": 0.0454, "ndcg@5": 0.0321, "recall@10": 0.0648, "ndcg@10": 0.0384}},
    "amazon-sports": {_TIGER: {"recall@5": 0.0264, "ndcg@5": 0.0181, "recall@10": 0.0400, "ndcg@10": 0.0225}},
    "amazon-toys": {_TIGER: {"recall@5": 0.0521, "ndcg@5": 0.0371, "recall@10": 0.0712, "ndcg@10": 0.0432}},
}
"""Data set -> retriever -> metric -> value."""
