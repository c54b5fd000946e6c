"""The parameters of an inference request. Meanings are those of TGIS, as caikit-nlp passes them on."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caikit_pt.errors import InvalidParameter
from caikit_pt.parameters.table import Limits, Parameter, ParameterTable

GREEDY = "GREEDY"
SAMPLING = "SAMPLING"
MAX_STOP_SEQUENCES = 64
MAX_STOP_SEQUENCE_CHARACTERS = 256
# What OpenAI's chat completions return at the most.
MOST_TOP_TOKENS = 20
# Below it the likeliest token has all the probability that float32 can tell apart.
COLDEST = 1e-3

GENERATION_PARAMETERS = ParameterTable(
    Parameter(
        "max_new_tokens",
        int,
        "Tokens to generate at the most. The setting max_new_tokens_limit (4,096) narrows the range.",
        20,
        "caikit-nlp",
        1,
        1_000_000,
    ),
    Parameter(
        "min_new_tokens",
        int,
        "Tokens before the end token, or a stop sequence, may end the answer.",
        0,
        "caikit-nlp",
        0,
        1_000_000,
    ),
    Parameter(
        "truncate_input_tokens",
        int,
        "Keep the last so many tokens of the text. 0: refuse text that doesn't fit.",
        0,
        "caikit-nlp",
        0,
        1_000_000,
    ),
    Parameter(
        "decoding_method",
        str,
        "GREEDY takes the likeliest token, SAMPLING draws one.",
        GREEDY,
        "caikit-nlp",
        choices=(GREEDY, SAMPLING),
    ),
    Parameter("top_k", int, "Draw from the k likeliest; 0 for all.", 0, "TGIS", 0, 1_000_000),
    Parameter("top_p", float, "Draw from the likeliest that sum to p; 0 and 1: off.", 1.0, "TGIS", 0, 1),
    Parameter(
        "typical_p",
        float,
        "Draw from the most typical that sum to p; 0 and 1: off.",
        1.0,
        "TGIS",
        0,
        1,
    ),
    Parameter("temperature", float, "Flattens (> 1) or sharpens; 0 is greedy.", 1.0, "TGIS", 0, 100),
    Parameter(
        "repetition_penalty",
        float,
        "Divides the scores of what was there before (Keskar 2019); 0 and 1: off.",
        1.0,
        "TGIS",
        0,
        100,
    ),
    Parameter(
        "max_time",
        float,
        "Seconds after which the answer so far is returned.",
        None,
        "none",
        low=0,
        high=86_400,
        above_low=True,
    ),
    Parameter(
        "stop_sequences",
        str,
        "Text that ends the answer, also across tokens. Up to 64, of up to 256 characters.",
        (),
        "none",
        many=True,
        longest=MAX_STOP_SEQUENCE_CHARACTERS,
    ),
    Parameter("seed", int, "Of SAMPLING; drawn where unset, and returned.", None, "drawn", 0, 2**64 - 1),
    Parameter(
        "preserve_input_text",
        bool,
        "Causal models: the request's text before the answer.",
        True,
        "caikit-nlp",
    ),
    Parameter("input_tokens", bool, "Return the tokens of the text.", False, "TGIS"),
    Parameter("generated_tokens", bool, "Return the tokens of the answer.", False, "TGIS"),
    Parameter(
        "token_logprobs",
        bool,
        "With a log-probability each; needs generated_tokens or input_tokens.",
        False,
        "TGIS",
    ),
    Parameter(
        "token_ranks",
        bool,
        "With its rank among all tokens, from 1; needs generated_tokens or input_tokens.",
        False,
        "TGIS",
    ),
    Parameter(
        "include_stop_sequence",
        bool,
        "Whether the answer ends with the stop sequence.",
        True,
        "TGIS",
    ),
    Parameter(
        "labels_only",
        bool,
        "Prompts of a classification answer with one of its labels, whole, whatever is said of lengths, "
        "penalties and stops; SAMPLING draws one. false: free text.",
        True,
        "caikit_pt",
    ),
    Parameter(
        "label_probabilities",
        bool,
        "Return the probability of every label; they sum to 1.",
        False,
        "caikit_pt",
    ),
    Parameter(
        "top_tokens",
        int,
        "Return so many of the likeliest tokens at each place, with their log-probabilities; needs "
        "generated_tokens or input_tokens.",
        0,
        "caikit_pt",
        0,
        MOST_TOP_TOKENS,
    ),
    Parameter(
        "untuned",
        bool,
        "Ask the base model alone, with the verbalizer, the separator and the labels of the prompt.",
        False,
        "caikit_pt",
    ),
    Parameter(
        "input_ids",
        int,
        "Ids of tokens that are read as they are behind the soft prompt, instead of a text: without "
        "verbalizer, separator and special tokens. text is empty then.",
        (),
        "caikit_pt",
        low=0,
        high=2**31 - 1,
        many=True,
    ),
)


def _default(name: str) -> Any:
    return GENERATION_PARAMETERS[name].default


@dataclass(frozen=True, slots=True, kw_only=True)
class ExponentialDecay:
    """The end token's score grows by `factor` a token, from `start` generated tokens on."""

    start: int
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationParameters:
    """What one inference request asks for, checked and with every default resolved."""

    max_new_tokens: int = _default("max_new_tokens")
    min_new_tokens: int = _default("min_new_tokens")
    truncate_input_tokens: int = _default("truncate_input_tokens")
    decoding_method: str = _default("decoding_method")
    top_k: int = _default("top_k")
    top_p: float = _default("top_p")
    typical_p: float = _default("typical_p")
    temperature: float = _default("temperature")
    repetition_penalty: float = _default("repetition_penalty")
    max_time: float | None = _default("max_time")
    exponential_decay: ExponentialDecay | None = None
    stop_sequences: tuple[str, ...] = _default("stop_sequences")
    seed: int = 0
    preserve_input_text: bool = _default("preserve_input_text")
    input_tokens: bool = _default("input_tokens")
    generated_tokens: bool = _default("generated_tokens")
    token_logprobs: bool = _default("token_logprobs")
    token_ranks: bool = _default("token_ranks")
    include_stop_sequence: bool = _default("include_stop_sequence")
    labels_only: bool = _default("labels_only")
    label_probabilities: bool = _default("label_probabilities")
    top_tokens: int = _default("top_tokens")
    untuned: bool = _default("untuned")
    input_ids: tuple[int, ...] = _default("input_ids")

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn; SAMPLING at temperature 0, or so close to it, is greedy."""
        return self.decoding_method == SAMPLING and self.temperature >= COLDEST

    @property
    def asks_worths(self) -> bool:
        """Whether it is asked what tokens are worth."""
        return bool(self.token_logprobs or self.token_ranks or self.top_tokens)

    @classmethod
    def from_request(
        cls, request: Mapping[str, Any], decay: tuple[int, float] | None, limits: Limits
    ) -> GenerationParameters:
        """The parameters of a request, where None is unset. Raises InvalidParameter."""
        given = GENERATION_PARAMETERS.check(request, limits)
        most = GENERATION_PARAMETERS["max_new_tokens"]
        defaults = {"seed": secrets.randbits(32), "max_new_tokens": most.nearest(most.default, limits)}
        parameters = cls(**{**defaults, **given}, exponential_decay=_checked_decay(decay))
        if parameters.min_new_tokens > parameters.max_new_tokens:
            raise InvalidParameter(
                "min_new_tokens",
                parameters.min_new_tokens,
                f"no more than max_new_tokens, which is {parameters.max_new_tokens}",
            )
        stops = parameters.stop_sequences
        if "" in stops or len(stops) > MAX_STOP_SEQUENCES:
            raise InvalidParameter(
                "stop_sequences",
                stops[:MAX_STOP_SEQUENCES],
                f"up to {MAX_STOP_SEQUENCES} texts, none of them empty or of more than "
                f"{MAX_STOP_SEQUENCE_CHARACTERS} characters",
            )
        return parameters


def _checked_decay(decay: tuple[int, float] | None) -> ExponentialDecay | None:
    if decay is None:
        return None
    field = "exponential_decay_length_penalty"
    start = Parameter("start_index", int, "", low=0, high=1_000_000, path=field).check(decay[0])
    factor = Parameter("decay_factor", float, "", low=1, high=100, path=field).check(decay[1])
    return ExponentialDecay(start=start, factor=factor)
