"""The model of a request that does not name one: that of the response it continues, or the operator's default.

| the body has                          | its model is                                       | its name is sent      |
|---------------------------------------|----------------------------------------------------|-----------------------|
| `previous_response_id` of a response  | that response's                                    | yes                   |
| that the gateway knows or stores      |                                                    |                       |
| `prompt`                              | `routing.unnamed_model`; the price is the one of   | if its route has      |
|                                       | the model that answers                             | `rename`              |
| `conversation`                        | `routing.unnamed_model`                            | yes                   |

The model of a stored prompt is unknown until it answers. Therefore the hold is made at the highest price of all models.
"""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.identity.api_keys import ApiKey
from gateway.ledger.known_responses import KnownResponse, KnownResponses
from gateway.protocol.dialects.dialect import is_flag_set
from gateway.protocol.request_body import RequestBody
from gateway.proxy.snapshot import ConfigSnapshot
from gateway.routing.router import Route
from gateway.state.turns import TurnSource


async def complete_request(
    request: RequestBody,
    query: bytes,
    snapshot: ConfigSnapshot,
    responses: KnownResponses,
    turns: TurnSource | None,
    key: ApiKey,
) -> tuple[RequestBody, KnownResponse | None]:
    """Returns the request with its model and its `stream` flag, where the body leaves them out.

    Raises GatewayError `missing_field` if neither an earlier response nor the operator names a model.
    """
    known_response = None
    if not request.model and request.previous_response_id:
        model, known_response = await _model_before(request.previous_response_id, snapshot, responses, turns, key)
        request = request._replace(model=model, model_in_prompt=False)
    elif not request.model:
        request = request._replace(model=_model_of_operator(snapshot, model_in_prompt=request.model_in_prompt))
    if query and not request.stream and asks_for_stream(query):
        request = request._replace(stream=True)
    return request, known_response


def asks_for_stream(query: bytes) -> bool:
    """Whether a query asks for a stream."""
    return any(
        name == b"stream" and is_flag_set(value.decode("latin-1"))
        for name, _, value in (part.partition(b"=") for part in query.split(b"&"))
    )


def price_by_answer(snapshot: ConfigSnapshot, route: Route, request: RequestBody) -> Route:
    """Returns the route for a stored prompt, which is charged by the model that answers."""
    return snapshot.router.by_answer(route) if request.model_in_prompt and route.rule.rename is None else route


async def _model_before(
    response_id: str,
    snapshot: ConfigSnapshot,
    responses: KnownResponses,
    turns: TurnSource | None,
    key: ApiKey,
) -> tuple[str, KnownResponse | None]:
    try:
        known_response = await responses.find(key, response_id)
    except GatewayError as error:
        if error.code != "response_not_found" or turns is None or not snapshot.keeps_state:
            raise
        model = await turns.model_of(key, response_id)
        if model is None:
            raise
        return model, None
    return known_response.model, known_response


def _model_of_operator(snapshot: ConfigSnapshot, *, model_in_prompt: bool) -> str:
    model = snapshot.router.unnamed_model
    if not model:
        what = "prompt" if model_in_prompt else "conversation"
        raise GatewayError(
            "missing_field",
            f"The field 'model' is required: this gateway cannot know which model the {what} uses, and so not where "
            "the request goes. Name the model, or ask the gateway's operator to set 'routing.unnamed_model', the model "
            "whose route requests without one take.",
            param="model",
        )
    return model
