"""What the processes have together."""

from qwen35_mlx.distributed.processes import smallest


def test_the_smallest_machine_counts_and_is_shared_by_its_processes():
    abouts = [{"host": "a", "limit": 90}, {"host": "a", "limit": 90}, {"host": "b", "limit": 60}]
    assert smallest(abouts, "limit", "ring") == 45
    assert smallest(abouts[1:], "limit", "jaccl") == 60
    assert smallest(abouts, "limit", "nccl") == 60
