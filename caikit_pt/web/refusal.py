"""Errors as HTTP tells them, in the shape that OpenAI's clients know."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from caikit_pt.errors import CaikitPtError

# https://cloud.google.com/apis/design/errors#handling_errors
_CODES = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# https://platform.openai.com/docs/guides/error-codes
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refused(CaikitPtError):
    """A request that is refused here, before the server is asked: `field` is what of it, where it is one."""

    def __init__(
        self, text: str, field: str = "", status: str = "INVALID_ARGUMENT", reason: str = ""
    ) -> None:
        super().__init__(text)
        self.status, self.field = status, field
        self.reason = reason or "INVALID_REQUEST"


def code_of(error: CaikitPtError) -> int:
    """The status of HTTP."""
    return _CODES.get(error.status, 500)


def body_of(error: CaikitPtError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`."""
    code = code_of(error)
    return {
        "error": {
            "message": str(error),
            "type": _TYPES.get(code, "invalid_request_error" if code < 500 else "server_error"),
            "param": getattr(error, "field", "") or None,
            "code": error.reason.lower() or None,
        }
    }


def headers_of(error: CaikitPtError) -> dict[str, str]:
    """When to come again, and by what one says who one is."""
    told = {}
    if error.retry_seconds:
        told["retry-after"] = str(max(1, round(error.retry_seconds)))
    if error.status == "UNAUTHENTICATED":
        told["www-authenticate"] = 'Basic realm="caikit_pt: any name, and the token as the password", Bearer'
    return told


def answer_to(error: CaikitPtError) -> JSONResponse:
    """The response."""
    return JSONResponse(body_of(error), code_of(error), headers_of(error))
