"""What needs no language model: the commonest label, and words counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from bench.quality.contender import MAJORITY, TF_IDF
from bench.quality.task import Record


def majority(train: Sequence[Record], texts: Sequence[str]) -> list[str]:
    """The commonest label of `train` for every text; of equals the first by the alphabet."""
    counts = Counter(record["output"] for record in train)
    return [max(sorted(counts), key=counts.__getitem__)] * len(texts)


def tf_idf(train: Sequence[Record], texts: Sequence[str]) -> list[str]:
    """TF-IDF of words with a logistic regression, as scikit-learn has them by default."""
    labels = [record["output"] for record in train]
    if len(set(labels)) == 1:
        # A regression needs two.
        return majority(train, texts)
    # 100 iterations, the default, end in a warning where there are many words.
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    model.fit([record["input"] for record in train], labels)
    return [str(label) for label in model.predict(texts)]


ANSWERS: Mapping[str, Callable[[Sequence[Record], Sequence[str]], list[str]]] = {
    MAJORITY: majority,
    TF_IDF: tf_idf,
}
