"""JSON requests and responses, and the errors that a client may get."""

import json
from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse

View = Callable[..., HttpResponse | Awaitable[HttpResponse]]


class RequestError(Exception):
    """A request that cannot be served, with the HTTP status of the response."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def body(request: HttpRequest) -> dict[str, Any]:
    """Return the JSON object in a request's body."""
    try:
        data = json.loads(request.body)
    except ValueError as error:
        raise RequestError("The body is not JSON.") from error
    if not isinstance(data, dict):
        raise RequestError("The body is not a JSON object.")
    return data


def json_errors(view: View) -> View:
    """Return the errors of a sync or async view as JSON."""
    if iscoroutinefunction(view):

        @wraps(view)
        async def aguarded(request: HttpRequest, **kwargs: object) -> HttpResponse:
            try:
                return await view(request, **kwargs)
            except (RequestError, Http404) as error:
                return _refusal(error)

        return aguarded

    @wraps(view)
    def guarded(request: HttpRequest, **kwargs: object) -> HttpResponse:
        try:
            return view(request, **kwargs)
        except (RequestError, Http404) as error:
            return _refusal(error)

    return guarded


def _refusal(error: RequestError | Http404) -> JsonResponse:
    status = error.status if isinstance(error, RequestError) else 404
    return JsonResponse({"error": str(error) or "Not found."}, status=status)
