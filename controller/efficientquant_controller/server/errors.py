"""The table from error class to gRPC status, and its interceptor."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from efficientquant_controller.errors import (
    DamagedMessageError,
    FleetError,
    LeaseHeldError,
    LeaseLostError,
    NameTakenError,
    NotFoundError,
    StaleSessionError,
    StoreBusyError,
    StoreError,
    StoreVersionError,
    UnstorableError,
    UserError,
    VersionSkewError,
)

LOG = logging.getLogger(__name__)
ANSWERED = (("efficientquant-answered", "1"),)
LONGEST_TEXT = 1000

# The messages of these errors are sent to the client. Every other error is a bug.
STATUS_BY_ERROR: dict[type[FleetError], StatusCode] = {
    NotFoundError: StatusCode.NOT_FOUND,
    NameTakenError: StatusCode.ALREADY_EXISTS,
    VersionSkewError: StatusCode.FAILED_PRECONDITION,
    StaleSessionError: StatusCode.ABORTED,
    DamagedMessageError: StatusCode.DATA_LOSS,
    UnstorableError: StatusCode.INVALID_ARGUMENT,
    StoreVersionError: StatusCode.FAILED_PRECONDITION,
    StoreBusyError: StatusCode.UNAVAILABLE,
    LeaseHeldError: StatusCode.UNAVAILABLE,
    LeaseLostError: StatusCode.UNAVAILABLE,
    StoreError: StatusCode.UNAVAILABLE,
    UserError: StatusCode.INVALID_ARGUMENT,
    FleetError: StatusCode.INTERNAL,
}


def status_of(error: FleetError) -> StatusCode:
    """Return the status of the nearest class in the table."""
    return next(STATUS_BY_ERROR[parent] for parent in type(error).__mro__ if parent in STATUS_BY_ERROR)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """An interceptor that turns FleetErrors into statuses on every call."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler:
        """Wrap the handler of the call."""
        handler = await continuation(handler_call_details)
        if handler is None:  # grpc would answer UNIMPLEMENTED, which a client reads as an older controller
            return grpc.unary_unary_rpc_method_handler(_refusal(handler_call_details.method))
        requests = "stream" if handler.request_streaming else "unary"
        answers = "stream" if handler.response_streaming else "unary"
        inner = getattr(handler, f"{requests}_{answers}")
        make = getattr(grpc, f"{requests}_{answers}_rpc_method_handler")
        checked = _check_each(inner) if handler.request_streaming else _check_one(inner)
        wrapped = _wrap_stream(checked) if handler.response_streaming else _wrap_unary(checked)
        return make(wrapped, _read_or_keep(handler.request_deserializer), handler.response_serializer)


class _Undecodable:
    """A message that is not what its method takes."""


def _read_or_keep(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Return a deserializer that never raises.

    gRPC would log a traceback for each damaged message.
    """

    def deserialize(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError:
            return _Undecodable()

    return deserialize


def _checked(message: Any) -> Any:
    if isinstance(message, _Undecodable):
        raise DamagedMessageError(
            "the message cannot be decoded; it was damaged on the way, or it is of another program"
        )
    return message


def _check_one(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a request that cannot be decoded."""

    def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
        return inner(_checked(request), context)

    return call


def _check_each(inner: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a stream of requests at the first that cannot be decoded."""

    async def read(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            yield _checked(request)

    def call(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
        return inner(read(requests), context)

    return call


def _refusal(method: str) -> Callable[..., Awaitable[None]]:
    """Return a handler that refuses an unknown method."""

    async def call(_: bytes, context: grpc.aio.ServicerContext) -> None:
        await context.abort(
            StatusCode.FAILED_PRECONDITION,
            f"the controller is efficientquant {version('efficientquant')} and has no {method.rpartition('/')[2]}; "
            "install the same release on both sides",
        )

    return call


def _wrap_unary(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await inner(request, context)
        except FleetError as error:
            await _abort(context, error)

    return call


def _wrap_stream(inner: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        try:
            async for answer in inner(request, context):
                yield answer
        except FleetError as error:
            await _abort(context, error)

    return call


async def _abort(context: grpc.aio.ServicerContext, error: FleetError) -> None:
    if not isinstance(error, UserError):
        LOG.warning("%s: %s", type(error).__name__, shorten(str(error)))
    # An agent tells by it that the controller answered, and not the network.
    await context.abort(status_of(error), shorten(str(error)), trailing_metadata=ANSWERED)


def shorten(text: str) -> str:
    """Return a text that fits into a call's status.

    It may repeat what a peer sent, and gRPC refuses long ones.
    """
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
