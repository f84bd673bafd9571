from qwen35_chat.cpu_budget import CpuBudget


def test_work_over_the_budget_has_to_be_made_up_for() -> None:
    wall, cpu = 0.0, 0.0
    budget = CpuBudget(0.25, lambda: wall, lambda: cpu)
    wall, cpu = 0.1, 0.02
    assert budget.due()
    wall, cpu = 0.2, 0.12  # 0.1 s of work since: 0.4 s have to pass
    assert not budget.due()
    wall = 0.49
    assert not budget.due()
    wall = 0.51
    assert budget.due()


def test_the_longest_wait_is_a_second() -> None:
    wall, cpu = 0.0, 0.0
    budget = CpuBudget(0.25, lambda: wall, lambda: cpu)
    wall, cpu = 0.99, 0.99
    assert not budget.due()
    wall, cpu = 1.01, 1.01
    assert budget.due()


def test_without_work_it_is_due_at_once() -> None:
    budget = CpuBudget(0.25, lambda: 1.0, lambda: 1.0)
    assert budget.due()
    assert budget.due()
