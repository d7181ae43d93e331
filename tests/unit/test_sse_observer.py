"""Framer and observer of a stream: bytes pass unchanged in whole events, and nothing depends on how they were cut."""

import json
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol import sse_framer, sse_observer
from gateway.protocol.byte_search import PIECE_BYTES
from gateway.protocol.dialects.dialect import StreamForm, StreamSummary
from gateway.protocol.dialects.responses import RESPONSES
from gateway.protocol.sse_framer import SseFramer
from gateway.protocol.sse_framing import BLANK_LINE, blank_lines, last_boundary, split_events
from gateway.protocol.sse_observer import SseObserver
from tests.support.sse_corpus import USAGE, cuts, frame, is_boundary, read, streams

BOUND = 1 << 20
CREATED = {"type": "response.created", "sequence_number": 0, "response": {"id": "resp_1", "usage": None, "error": None}}
COMPLETED = {"type": "response.completed", "sequence_number": 9, "response": {"id": "resp_1", "usage": USAGE}}
STREAM = cast("StreamForm", RESPONSES.stream)


def delta(text: str, number: int = 1) -> str:
    kind = "response.output_text.delta"
    return frame({"type": kind, "sequence_number": number, "item_id": "msg_1", "delta": text}, name=kind)


def framer_of(bound: int = BOUND) -> SseFramer:
    return SseFramer(SseObserver(STREAM), bound)


def observed(*chunks: str | bytes, bound: int = BOUND) -> SseObserver:
    framer = framer_of(bound)
    for chunk in chunks:
        framer.feed(chunk.encode() if isinstance(chunk, str) else chunk)
    return framer.observer


def summary_of(*chunks: str | bytes, bound: int = BOUND) -> StreamSummary:
    return observed(*chunks, bound=bound).summary()


def main_facts(summary: StreamSummary) -> tuple[object, ...]:
    return summary.terminal, summary.usage, summary.done, summary.error is not None, summary.response_id


def run(chunks: Iterable[bytes], bound: int = BOUND) -> tuple[SseFramer, list[bytes]]:
    framer = framer_of(bound)
    pieces = [bytes(framer.feed(chunk)) for chunk in chunks]
    return framer, [*pieces, bytes(framer.finish())]


def is_without_half_event(written: bytes, stream: bytes) -> bool:
    """Whether all of a stream was written, except for half an event at its end."""
    rest = b":" + stream.removeprefix(written)  # a byte order mark and an empty line are no event
    return stream.startswith(written) and not any(is_boundary(rest[:end]) for end in range(1, len(rest)))


# What holds for every stream


@given(st.data(), streams())
def test_bytes_pass_unchanged_and_what_is_learnt_is_what_a_client_reads(data: st.DataObject, stream: bytes) -> None:
    framer, pieces = run(data.draw(cuts(stream)))
    written = b"".join(pieces)
    assert is_without_half_event(written, stream)
    truth = read(written)
    assert main_facts(framer.observer.summary()) == (
        truth.terminal,
        truth.usage,
        truth.done,
        truth.error_seen,
        truth.response_id,
    )


@given(st.data(), streams())
def test_every_write_ends_at_an_event_boundary(data: st.DataObject, stream: bytes) -> None:
    framer, written = framer_of(), b""
    for chunk in data.draw(cuts(stream)):
        written += framer.feed(chunk)
        assert framer.aligned
        assert is_boundary(written)


@given(st.data(), streams())
def test_no_finished_event_is_held_back(data: st.DataObject, stream: bytes) -> None:
    framer, fed_bytes, written = framer_of(), b"", b""
    for chunk in data.draw(cuts(stream)):
        fed_bytes += chunk
        written += framer.feed(chunk)
        held = fed_bytes[len(written) :]
        if not held.endswith(b"\r"):  # the CR may be half of a CRLF
            line_ends = [end for end in range(1, len(held) + 1) if held[end - 1] in b"\r\n"]
            assert not any(is_boundary(held[:end]) for end in line_ends if held[end - 1 : end + 1] != b"\r\n")


@given(st.data(), streams(), st.integers(0, 60))
def test_beyond_the_bound_bytes_flow_on_unchanged(data: st.DataObject, stream: bytes, bound: int) -> None:
    framer, pieces = framer_of(bound), list[bytes]()
    fed_bytes = 0
    for chunk in data.draw(cuts(stream)):
        fed_bytes += len(chunk)
        pieces.append(bytes(framer.feed(chunk)))
        assert fed_bytes - sum(map(len, pieces)) <= bound
        assert not framer.aligned or is_boundary(b"".join(pieces))
    assert is_without_half_event(b"".join([*pieces, framer.finish()]), stream)


@given(
    st.lists(
        st.binary(max_size=40) | st.sampled_from([b"\n", b"\r", b"data:", b"event: error", b"{}", b"\xef\xbb\xbf"])
    )
)
def test_arbitrary_bytes_pass_unchanged_and_never_raise(chunks: list[bytes]) -> None:
    framer, pieces = run(chunks, bound=30)
    assert is_without_half_event(b"".join(pieces), b"".join(chunks))
    assert framer.observer.output_tokens_estimate() >= 0
    assert framer.observer.summary().last_sequence_number() >= -1


@given(st.integers(0, 40), st.data())
def test_deltas_events_and_the_last_number_do_not_depend_on_chunking(count: int, data: st.DataObject) -> None:
    stream = frame(CREATED) + "".join(delta(" hi", number) for number in range(1, count + 1))
    framer, _ = run(data.draw(cuts(stream.encode())))
    summary = framer.observer.summary()
    assert (summary.deltas, summary.events, summary.last_sequence_number()) == (count, count + 1, count)


# Rules of the format, one by one


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_line_end_is_understood(end: str) -> None:
    stream = frame(CREATED) + delta("a") + delta("b", 2) + frame(COMPLETED) + frame("[DONE]")
    framer, _ = run([stream.replace("\n", end).encode()])
    summary = framer.observer.summary()
    assert main_facts(summary) == ("response.completed", USAGE, True, False, "resp_1")
    assert (summary.deltas, summary.events) == (2, 5)


def test_a_crlf_that_is_cut_in_half_stays_one_line_end() -> None:
    framer = framer_of()
    assert framer.feed(b"data: 1\r\n\r") == b""
    assert framer.feed(b"\ndata: 2") == b"data: 1\r\n\r\n"


def test_a_cr_that_was_no_half_ends_the_event_with_the_next_byte() -> None:
    framer = framer_of()
    assert framer.feed(b"data: 1\n\r") == b""
    assert framer.feed(b"d") == b"data: 1\n\r"


def test_a_cr_stream_is_not_an_event_late() -> None:
    assert framer_of().feed(b"data: 1\r\r") == b"data: 1\r\r"


def test_an_unfinished_event_is_held_and_the_finished_ones_go_on() -> None:
    framer = framer_of()
    assert framer.feed(b"data: 1\n\ndata: 2\n") == b"data: 1\n\n"
    assert framer.aligned
    assert framer.feed(b"\n") == b"data: 2\n\n"


@pytest.mark.parametrize("space", ["", " "])
@pytest.mark.parametrize("split", [True, False])
def test_data_with_and_without_space_on_one_or_several_lines(space: str, split: bool) -> None:
    assert summary_of(frame(COMPLETED, space=space, split=split)).usage == USAGE


def test_a_leading_byte_order_mark_hides_nothing() -> None:
    assert summary_of("\ufeff" + frame(COMPLETED)).terminal == "response.completed"


def test_a_byte_order_mark_later_on_makes_its_line_an_unknown_field() -> None:
    assert summary_of(delta("a"), "\ufeff" + frame(COMPLETED)).terminal is None


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete", "response.failed"])
def test_each_terminal_event_may_carry_usage(kind: str) -> None:
    summary = summary_of(frame(CREATED), frame(COMPLETED | {"type": kind}))
    assert (summary.terminal, summary.usage) == (kind, USAGE)


def test_the_type_may_stand_in_the_event_line_alone() -> None:
    response = {"response": {"usage": USAGE}}
    assert summary_of(frame(response, name="response.completed")).usage == USAGE
    assert summary_of(frame({"message": "no"}, name="error")).error is not None


def test_the_type_in_the_json_wins() -> None:
    assert summary_of(frame(COMPLETED, name="acme.delta")).terminal == "response.completed"
    assert summary_of(frame({"type": "acme.note"}, name="response.completed")).terminal is None


def test_a_text_that_speaks_of_terminal_events_ends_nothing() -> None:
    text = 'event: response.completed\ndata: [DONE]\n\n{"type":"error"} "usage":{"input_tokens":1,"output_tokens":1}'
    summary = summary_of(frame(CREATED), delta("a"), delta(text), delta("b", 3))
    assert main_facts(summary) == (None, None, False, False, "resp_1")
    assert summary.deltas == 3


def test_a_terminal_event_is_found_behind_deltas_in_the_same_read() -> None:
    summary = summary_of(frame(CREATED), delta("a"), delta("b", 2) + delta("c", 3) + frame(COMPLETED), frame("[DONE]"))
    assert main_facts(summary) == ("response.completed", USAGE, True, False, "resp_1")


def test_a_blank_line_in_another_style_cannot_hide_an_event_behind_a_delta() -> None:
    first = delta("a").replace("\n", "\r\n")
    mixed = first.replace("\r\n\r\n", "\r\rdata: [DONE]\n\n")
    assert summary_of(first, mixed).done
    assert summary_of(delta("a"), delta("b").replace("\n\n", "\r\rdata: [DONE]\n\n")).done


def test_unknown_events_and_comments_change_nothing() -> None:
    summary = summary_of(
        ": hello\n\n", frame({"type": "acme:thing", "response": {"usage": USAGE}}), "id: 7\nretry: 1\n\n"
    )
    assert main_facts(summary) == (None, None, False, False, None)
    assert summary.events == 3


def test_an_error_event_is_seen_and_the_stream_goes_on() -> None:
    summary = summary_of(delta("a"), frame({"type": "error", "error": {}}), delta("b"), frame(COMPLETED))
    assert (summary.error is not None, summary.terminal) == (True, "response.completed")


def test_an_error_event_is_seen_among_deltas_of_the_same_read() -> None:
    assert summary_of(delta("a"), frame({"type": "error", "error": {}}) + delta("b", 2)).error is not None


def test_the_first_terminal_event_counts() -> None:
    summary = summary_of(frame(COMPLETED), frame(COMPLETED | {"type": "response.failed", "response": {"usage": None}}))
    assert (summary.terminal, summary.usage) == ("response.completed", USAGE)


def test_text_that_only_lenient_parsers_read_does_not_cost_the_usage() -> None:
    cut_emoji = json.dumps(COMPLETED | {"text": "\ud83d"})
    bad_utf8 = json.dumps(COMPLETED | {"text": "@"}).encode().replace(b"@", b"\xff")
    assert summary_of(frame(cut_emoji)).usage == USAGE
    assert summary_of(b"data: " + bad_utf8 + b"\n\n").usage == USAGE


# The end of a stream


def test_a_last_event_without_its_blank_line_counts() -> None:
    framer = framer_of()
    stream = frame(COMPLETED).encode().rstrip()
    assert framer.feed(stream) == b""
    assert framer.finish() == stream
    assert (framer.observer.summary().usage, framer.aligned) == (USAGE, False)


def test_the_rest_of_a_broken_stream_is_read_for_usage_and_not_written() -> None:
    framer = framer_of()
    framer.feed((frame(CREATED) + frame(COMPLETED).rstrip()).encode())
    assert framer.finish(was_cut=True) == b""
    summary = framer.observer.summary()
    assert (summary.usage, summary.terminal, framer.aligned) == (USAGE, None, True)


def test_an_opening_event_that_never_reached_the_client_was_not_shown() -> None:
    framer = framer_of()
    framer.feed(frame(CREATED).rstrip().encode())
    framer.finish(was_cut=True)
    summary = framer.observer.summary()
    assert (summary.has_opening, summary.opening) == (False, None)


# Bounds and cost


def test_usage_of_a_terminal_event_beyond_the_bound_is_found_near_its_end() -> None:
    large = {"id": "resp_1", "output": ["A" * 50_000], "usage": USAGE, "metadata": {"note": '"usage":1'}}
    stream = frame(COMPLETED | {"response": large}).encode()
    framer, pieces = run([stream[at : at + 1000] for at in range(0, len(stream), 1000)], bound=5_000)
    assert b"".join(pieces) == stream
    assert main_facts(framer.observer.summary())[:2] == ("response.completed", USAGE)
    assert framer.aligned


def test_events_behind_one_beyond_the_bound_are_read_again() -> None:
    large = delta("A" * 9_000)
    summary = summary_of(large[:5_000], large[5_000:] + frame(COMPLETED) + "data: [DO", "NE]\n\n", bound=1_000)
    assert main_facts(summary)[:3] == ("response.completed", USAGE, True)


def test_an_event_cut_beyond_the_bound_leaves_the_stream_unaligned() -> None:
    framer = framer_of(100)
    piece = b"data: " + b"A" * 200
    assert framer.feed(piece) == piece
    assert not framer.aligned
    assert framer.feed(b"B") == b"B"
    assert framer.feed(b"\n\ndata: 2") == b"\n\n"
    assert framer.aligned


def test_an_opening_event_too_large_to_keep_still_gives_its_id() -> None:
    response = {"id": "resp_1", "instructions": "A" * 70_000}
    summary = summary_of(frame(CREATED | {"response": response}))
    assert (summary.has_opening, summary.opening, summary.response_id) == (True, None, "resp_1")


def test_a_large_event_in_small_chunks_is_scanned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = 0

    def counting(window: bytes) -> int:
        nonlocal scanned
        scanned += len(window)
        return last_boundary(window)

    monkeypatch.setattr(sse_framer, "last_boundary", counting)
    stream = frame(COMPLETED | {"text": "A" * 2_000_000}).encode()
    framer, _ = run([stream[at : at + 1000] for at in range(0, len(stream), 1000)], bound=1 << 24)
    assert framer.observer.summary().usage == USAGE
    assert scanned <= 1.01 * len(stream)


def test_a_stream_of_like_deltas_is_inspected_only_until_their_head_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    inspected = 0
    count_lines = blank_lines  # called once by each examination beyond the head

    def counting(ready: bytes) -> int:
        nonlocal inspected
        inspected += 1
        return count_lines(ready)

    monkeypatch.setattr(sse_observer, "blank_lines", counting)
    summary = summary_of(frame(CREATED), *[delta("a", number) * 3 for number in range(1, 100)], frame(COMPLETED))
    assert (summary.deltas, inspected) == (297, 2)


# Estimates and numbers


def test_output_is_estimated_as_one_token_a_delta_or_four_bytes_of_text_a_token() -> None:
    assert observed(*[delta("a", number) for number in range(50)]).output_tokens_estimate() == 50
    assert observed(*[delta("word" * 10, number) for number in range(50)]).output_tokens_estimate() == 500


def test_output_that_comes_as_whole_items_is_not_free() -> None:
    item = frame({"type": "response.output_item.done", "item": {"text": "A" * 400}})
    assert observed(frame(CREATED), item).output_tokens_estimate() >= 100


def test_nothing_relayed_is_no_output() -> None:
    assert observed(frame(CREATED)).output_tokens_estimate() == 0


def test_the_last_number_is_found_behind_events_that_carry_none() -> None:
    assert summary_of().last_sequence_number() == -1
    assert summary_of(frame(CREATED), delta("a", 5), ": ping\n\n", frame("[DONE]")).last_sequence_number() == 5
    large = frame({"type": "response.output_item.done", "sequence_number": 8, "x": "A" * 9000})
    assert summary_of(large).last_sequence_number() == 8
    assert summary_of(frame({"type": "acme.a"}), frame({"type": "acme.b"})).last_sequence_number() == 1


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a"])).map(b"".join))
def test_events_that_are_split_are_the_same_bytes_cut_behind_blank_lines(data: bytes) -> None:
    events = split_events(data)
    assert b"".join(events) == data
    assert all(is_boundary(b"".join(events[:number])) for number in range(1, len(events)))
    for beside in (PIECE_BYTES - 1 - len(data) // 2, 2 * PIECE_BYTES - 2):  # long bytes are searched in pieces
        assert split_events(b"a" * beside + data + b"a\r") == split_by_one_search(b"a" * beside + data + b"a\r")
    assert events == split_by_one_search(data)


def split_by_one_search(data: bytes) -> list[bytes]:
    cuts = [0, *(blank.end() for blank in BLANK_LINE.finditer(data)), len(data)]
    return [data[start:end] for start, end in pairwise(cuts) if start < end]
