"""The protections of what comes over the wire, as in protections.py."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_DECODER: Final = "gateway/protocol/stream_decoder.py"
_TEST_CODINGS: Final = "tests/unit/test_content_codings.py"
_TEST_ERRORS: Final = "tests/dialects/test_errors_in_json.py"
_TEST_UPSTREAMS: Final = "tests/websocket/upstreams/test_large_answers.py"
_TEST_COMPRESSED: Final = "tests/dialects/test_compressed_answers.py"

WIRE_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "a window beyond 8 MiB is refused",
        _DECODER,
        "_ZSTD_WINDOW_LOG: Final = 23",
        "_ZSTD_WINDOW_LOG: Final = 30",
        f"{_TEST_CODINGS}::test_a_zstd_window_beyond_8_mib_is_refused",
    ),
    Protection(
        "a body of very many members is refused",
        "gateway/protocol/content_codings.py",
        " or self._decoder.members > _MAX_MEMBERS",
        "",
        f"{_TEST_CODINGS}::test_a_body_of_very_many_members_is_refused",
    ),
    Protection(
        "a body that grows too much is refused",
        "gateway/protocol/content_codings.py",
        "self._size > _FREE_BYTES + _MAX_RATIO * sent_bytes",
        "False",
        f"{_TEST_CODINGS}::test_what_grows_too_much_is_refused",
    ),
    Protection(
        "the first event of a response is waited for",
        "gateway/proxy/preamble.py",
        "or has_event(self._data)):",
        "or self._data):",
        "tests/dialects/test_endings.py::test_a_response_that_begins_with_an_error_is_none_however_it_is_cut",
    ),
    Protection(
        "what is logged of a stream that began early is its refusal",
        "gateway/proxy/handler.py",
        "record.early_refusal or client.status or 0",
        "client.status or 0",
        "tests/dialects/test_early_streams.py::test_a_late_refusal_is_the_streams_error_event",
    ),
    Protection(
        "large responses are kept off the loop",
        "gateway/state/large_work.py",
        "if not is_long or self._off_loop is None:",
        "if True:",
        "tests/unit/test_large_work.py::test_what_is_long_runs_in_a_thread_and_the_rest_at_once",
    ),
    Protection(
        "a control character in a path is refused behind other servers",
        "gateway/api/middleware.py",
        'if has_control(scope["path"]):',
        "if False:",
        "tests/faults/test_other_servers.py::test_a_control_character_in_a_path_is_refused",
    ),
    Protection(
        "the work for a schema is bounded",
        "gateway/simulator/schema_check.py",
        "        if self._left < 0:",
        "        if False:",
        "tests/simulator/test_structured_output.py::test_no_schema_makes_it_hang",
    ),
    Protection(
        "a compressed answer that is cut is no answer",
        "gateway/upstream/decoded_answer.py",
        "            elif self._decoder.is_complete:",
        "            else:\n                return b''\n            if self._decoder.is_complete:",
        f"{_TEST_COMPRESSED}::test_a_compressed_answer_that_is_cut_is_no_answer",
    ),
    Protection(
        "a head is recognised only with a length of digits",
        "gateway/http/known_head.py",
        "end < 0 or not digits.isdigit() or not",
        "end < 0 or not",
        "tests/unit/test_known_heads.py::test_a_head_that_is_recognised_means_what_the_parser_reads",
    ),
    Protection(
        "a head that closes its connection is not remembered",
        "gateway/http/parser.py",
        "parsed.keep_alive and len(parsed.fields) == len(parsed.headers)",
        "parsed.fields",
        "tests/unit/test_known_heads.py::test_a_head_that_is_recognised_means_what_the_parser_reads",
    ),
    Protection(
        "a head that could outgrow the bound is parsed each time",
        "gateway/http/parser.py",
        "known if known is not None and known.size <= self._max_head_bytes else None",
        "known",
        "tests/unit/test_known_heads.py::test_a_head_that_could_outgrow_the_bound_is_parsed_each_time",
    ),
    Protection(
        "an error under a 200 is no answer of its model, and nothing is remembered of it",
        "gateway/proxy/exchange.py",
        "if is_answer and answer.unconfirmed is not None:",
        "if answer.unconfirmed is not None:",
        f"{_TEST_ERRORS}::test_a_model_whose_streams_are_errors_is_left_alone",
    ),
    Protection(
        "a refusal of the gateway's account under a 200 shows nothing of it",
        "gateway/proxy/upstream_answer.py",
        "    refuse_unreadable(status, opened.answer.headers, body, may_be_missing=False)\n",
        "",
        f"{_TEST_ERRORS}::test_a_refusal_of_the_gateways_account_shows_nothing_of_it",
    ),
    Protection(
        "large events become messages of a WebSocket off the event loop",
        "gateway/websocket/turn_client.py",
        "            rest, events, frames = await self._off_loop.run(work)",
        "            rest, events, frames = work()",
        "tests/websocket/test_large_messages.py::test_a_large_event_becomes_a_message_in_a_thread",
    ),
    Protection(
        "large frames of a WebSocket are parsed off the event loop",
        "gateway/http/websocket_connection.py",
        "            if self._frame_bytes > (_LONG_COMPRESSED_BYTES if self._protocol.extensions else LONG_BYTES):",
        "            if False:",
        "tests/websocket/test_large_messages.py::test_a_large_frame_is_parsed_by_a_thread",
    ),
    Protection(
        "a long text message of a WebSocket is UTF-8",
        "gateway/websocket/session.py",
        "                elif await off_loop.run(partial(is_utf8, text)):",
        "                elif True:",
        "tests/websocket/test_large_messages.py::test_a_large_message_that_is_not_utf8_ends_the_socket",
    ),
    Protection(
        "a large message of an upstream's socket is read by a thread",
        "gateway/upstream/websocket_reader.py",
        "        if len(text) > LONG_BYTES:\n",
        "        if False:\n",
        f"{_TEST_UPSTREAMS}::test_a_large_message_is_read_by_a_thread_and_what_follows_it_waits",
    ),
    Protection(
        "what an upstream's socket has brought is read to its end, although the socket has closed",
        "gateway/upstream/websocket.py",
        "        if not self._reader.is_busy:\n            self._end(self._lost)\n",
        "        self._end(self._lost)\n",
        f"{_TEST_UPSTREAMS}::test_a_turn_whose_last_message_is_being_read_does_not_die_with_its_socket[lost]",
    ),
    Protection(
        "a turn whose last message is being read does not end with the close frame behind it",
        "gateway/upstream/websocket.py",
        "        if self._reader.is_busy:\n            if self._transport",
        "        if False:\n            if self._transport",
        f"{_TEST_UPSTREAMS}::test_a_turn_whose_last_message_is_being_read_does_not_die_with_its_socket[close frame]",
    ),
    Protection(
        "a large answer to a steering is framed by a thread",
        "gateway/websocket/steering_answers.py",
        "if size <= LONG_BYTES and not self._waiting:",
        "if not self._waiting:",
        f"{_TEST_UPSTREAMS}::test_a_large_refused_steering_is_framed_by_a_thread_and_the_next_one_waits",
    ),
    Protection(
        "an answer to a steering does not overtake a large one",
        "gateway/websocket/steering_answers.py",
        "if size <= LONG_BYTES and not self._waiting:",
        "if size <= LONG_BYTES:",
        f"{_TEST_UPSTREAMS}::test_a_large_refused_steering_is_framed_by_a_thread_and_the_next_one_waits",
    ),
)
