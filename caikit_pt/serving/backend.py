"""Who answers the requests to a base model: an engine in this process, or a server elsewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod

from caikit_pt.serving.generation import Generation
from caikit_pt.serving.request import Request, Token


class Backend(ABC):
    """Answers requests to one base model, whatever their soft prompts."""

    @abstractmethod
    def submit(self, request: Request) -> Generation:
        """Takes a request on. Raises TooManyRequests, QuotaExceeded, and InvalidParameter where it can never
        run.

        Who leaves the generation before its end cancels the rest.
        """

    @abstractmethod
    def input_tokens(self, request: Request) -> list[Token]:
        """The tokens of the text, with what the request asks to know of them."""
