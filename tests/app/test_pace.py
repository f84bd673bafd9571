from qwen35_chat.pace import Pace


def test_cheap_work_is_always_due_and_dear_work_is_made_up_for() -> None:
    wall, cpu = 0.0, 0.0
    pace = Pace(0.25, lambda: wall, lambda: cpu)
    wall, cpu = 0.1, 0.02
    assert pace.due()
    wall, cpu = 0.2, 0.12  # 0.1 s of work since: 0.4 s have to pass
    assert not pace.due()
    wall = 0.49
    assert not pace.due()
    wall = 0.51
    assert pace.due()


def test_a_second_is_the_longest_wait_whatever_the_work() -> None:
    wall, cpu = 0.0, 0.0
    pace = Pace(0.25, lambda: wall, lambda: cpu)
    wall, cpu = 0.99, 0.99
    assert not pace.due()
    wall, cpu = 1.01, 1.01
    assert pace.due()


def test_without_work_it_is_due_at_once() -> None:
    pace = Pace(0.25, lambda: 1.0, lambda: 1.0)
    assert pace.due()
    assert pace.due()
