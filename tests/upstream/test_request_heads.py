"""A request head says exactly what it was given, to any parser, or it is refused."""

from httptools import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.origin import parse_origin
from gateway.upstream.request_head import RequestHeads

ANY_HEADERS = st.lists(st.tuples(st.binary(max_size=12) | st.sampled_from([b"x-a", b"Accept"]), st.binary(max_size=20)))
TOKENS = st.text("abcdefXYZ0189-_.!~", min_size=1, max_size=12).map(lambda name: b"x" + name.encode())
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30).map(str.encode)


class Parsed:
    def __init__(self, wire: bytes) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.messages = 0
        self.url = b""
        HttpRequestParser(self).feed_data(wire)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_message_complete(self) -> None:
        self.messages += 1


def heads() -> RequestHeads:
    return RequestHeads(parse_origin("http://upstream.invalid:8080/base"))


@given(st.lists(st.tuples(TOKENS, VALUES), max_size=8))
def test_headers_arrive_as_they_were_given(headers: list[tuple[bytes, bytes]]) -> None:
    parsed = Parsed(heads().build(b"POST", b"/v1/x", headers, 2) + b"{}")
    assert parsed.url == b"/base/v1/x"
    assert parsed.messages == 1
    assert [(name, value.strip()) for name, value in parsed.headers] == [
        (b"host", b"upstream.invalid:8080"),
        *((name, value.strip()) for name, value in headers),
        (b"content-length", b"2"),
    ]


@given(ANY_HEADERS, st.binary(max_size=20))
def test_nothing_that_is_accepted_changes_how_the_request_is_framed(
    headers: list[tuple[bytes, bytes]], target: bytes
) -> None:
    try:
        head = heads().build(b"POST", b"/" + target, headers, 3)
    except ValueError:
        return
    assert head.count(b"\r") == head.count(b"\n") == head.count(b"\r\n")
    assert head.endswith(b"\r\ncontent-length: 3\r\n\r\n")
    assert head.index(b"\r\n\r\n") == len(head) - 4
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:-2]]
    assert names.count(b"content-length") == 1
    assert names.count(b"host") == 1
    assert b"transfer-encoding" not in names


def test_any_number_of_names_is_served_though_few_are_remembered() -> None:
    ours = heads()
    for batch in range(20):
        names = [b"x-%d-%d" % (batch, number) for number in range(100)]
        head = ours.build(b"GET", b"/", [(name, b"1") for name in names], 0)
        assert head.count(b": 1\r\n") == 100
