"""Chunks of a prompt are cut by the time that they take, while others wait."""

import pytest

from qwen35_mlx.session.prefill_pace import CHUNK_SECONDS, SMALL_CHUNKS, PrefillPace

SIZES = (4096, 2048, 1024, 512, 256)


@pytest.mark.parametrize(
    ("tokens_a_second", "expected"),
    [(100, 64), (600, 128), (4000, 512), (9000, 2048), (90000, 2048)],
)
def test_the_largest_chunk_that_takes_a_quarter_of_a_second_is_read(tokens_a_second, expected):
    pace = PrefillPace(SIZES)
    for _ in range(8):
        size = pace.chunk(2048, others_wait=True)
        pace.add(size, size / tokens_a_second)
    assert pace.chunk(2048, others_wait=True) == expected
    assert expected == SMALL_CHUNKS[0] or expected / tokens_a_second <= CHUNK_SECONDS


def test_the_first_is_small_and_whoever_is_alone_reads_whole_chunks():
    pace = PrefillPace(SIZES)
    assert pace.chunk(2048, others_wait=True) == SMALL_CHUNKS[0]
    assert pace.chunk(2048, others_wait=False) == 2048
    assert pace.chunk(32, others_wait=True) == 32  # never more than fits into memory


def test_a_slower_machine_is_noticed_within_a_few_chunks():
    pace = PrefillPace(SIZES)
    pace.add(2048, 0.01)
    assert pace.chunk(2048, others_wait=True) == 2048
    for _ in range(4):
        pace.add(512, 1.0)
    assert pace.chunk(2048, others_wait=True) == 128
    pace.add(0, 9.0)  # nothing was read
    assert pace.chunk(2048, others_wait=True) == 128
