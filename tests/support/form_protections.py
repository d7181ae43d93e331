"""The protections of large bodies and of forms, which wait on disk, as in protections.py."""

from __future__ import annotations

from typing import Final

from tests.support.protections import Protection

_SPOOL: Final = "gateway/proxy/form_spool.py"
_DISK: Final = "gateway/concurrency/disk_body.py"
_TEST_FORMS: Final = "tests/faults/test_large_forms.py"
_TEST_DISK: Final = "tests/unit/test_disk_body.py"
_TEST_SENT: Final = "tests/contract/test_bodies_on_disk.py"

FORM_PROTECTIONS: Final[tuple[Protection, ...]] = (
    Protection(
        "a large form waits on disk",
        "gateway/proxy/body_reading.py",
        "if form_type is not None and max_bytes > snapshot.forms.over_bytes:",
        "if False:",
        f"{_TEST_FORMS}::test_it_takes_slices_of_the_memory_and_its_size_of_the_disk",
    ),
    Protection(
        "a body that is handed on is read no faster than it is taken",
        "gateway/http/request_cycle.py",
        "(self._waiter is None or self._waiter.done())",
        "self._waiter is None",
        "tests/unit/test_request_cycle.py::test_a_body_pauses_reading_behind_the_piece_that_was_waited_for",
    ),
    Protection(
        "a body that is handed on is bounded",
        "gateway/http/client.py",
        "        if size > max_bytes:\n            raise too_large(max_bytes)\n        await sink(piece)",
        "        await sink(piece)",
        f"{_TEST_FORMS}::test_one_of_unknown_length_that_is_too_large_is_refused",
    ),
    Protection(
        "large forms take a bounded part of the disk",
        _SPOOL,
        "        spool.disk.take(max_bytes)\n",
        "        spool.disk.held_bytes += max_bytes\n",
        f"{_TEST_FORMS}::test_the_disk_has_a_bound_of_its_own",
    ),
    Protection(
        "a large form is gone with its request",
        "gateway/proxy/handler.py",
        "            record.spooled_form.close()\n",
        "            pass\n",
        f"{_TEST_FORMS}::test_it_arrives_byte_for_byte_and_is_charged_by_its_sound",
    ),
    Protection(
        "a disk that stands still is given up",
        _SPOOL,
        "async with asyncio.timeout(self._timeout_s):",
        "async with asyncio.timeout(None):",
        f"{_TEST_DISK}::test_a_disk_that_stands_still_is_waited_for_no_longer_than_allowed",
    ),
    Protection(
        "a file that cannot be written is a refusal",
        _DISK,
        "                    view = view[written:]\n            except OSError as error:",
        "                    view = view[written:]\n            except EOFError as error:",
        f"{_TEST_DISK}::test_a_full_disk_is_a_503",
    ),
    Protection(
        "nothing reads a file behind the end of its request",
        _DISK,
        "        if self._closed:\n",
        "        if False:\n",
        f"{_TEST_DISK}::test_a_read_behind_the_end_of_its_request_fails",
    ),
    Protection(
        "of a body on disk no more is read than the upstream takes",
        "gateway/upstream/http1.py",
        "self._write_paused = True",
        "self._write_paused = False",
        f"{_TEST_SENT}::test_no_more_is_read_than_the_upstream_takes",
    ),
    Protection(
        "an upstream over HTTP/2 that reads slowly is waited for",
        "gateway/upstream/http2.py",
        "self._write_paused = True",
        "self._write_paused = False",
        "tests/contract/test_http2.py::test_an_upstream_that_reads_slower_than_its_windows_allow_is_waited_for",
    ),
    Protection(
        "a body that the gateway lost is no fault of the upstream",
        "gateway/upstream/upstream.py",
        "if kind in _GATEWAY_FAULTS:",
        "if False:",
        f"{_TEST_FORMS}::test_a_file_that_is_lost_on_its_way_is_a_503_and_no_fault_of_the_upstream",
    ),
    Protection(
        "a sound of very many chunks is not walked to its end",
        "gateway/protocol/audio_length.py",
        "for _ in range(_MAX_CHUNKS):",
        "for _ in range(len(data)):",
        "tests/unit/test_audio_length.py::test_a_file_of_very_many_chunks_takes_few_reads",
    ),
    Protection(
        "noise is not taken for frames of sound",
        "gateway/protocol/audio_frames.py",
        "if len(frames) >= _FRAMES_IN_A_ROW or ends:",
        "if frames:",
        "tests/unit/test_audio_length.py::test_noise_is_not_taken_for_frames",
    ),
    Protection(
        "an open stream holds nothing of its request's body",
        "gateway/proxy/exchange.py",
        '            admitted.request.held.body = b""\n',
        "            pass\n",
        "tests/security/test_body_memory.py::test_an_open_stream_holds_nothing_of_its_body",
    ),
    Protection(
        "a connection keeps nothing of a long body that it has read",
        "gateway/http/body_reader.py",
        "body, self.body = self.body, bytearray()",
        "body = self.body",
        "tests/faults/test_long_bodies.py::test_the_reader_takes_no_byte_beyond_the_length",
    ),
    Protection(
        "what a body took of the worker's memory is free once its answer is passed on",
        "gateway/proxy/exchange.py",
        "                admitted.snapshot.body_memory.give_back(record.body_held_bytes)\n"
        "                record.body_held_bytes = 0\n",
        "                pass\n",
        "tests/security/test_body_memory.py::test_an_open_stream_holds_nothing_of_its_body",
    ),
)
