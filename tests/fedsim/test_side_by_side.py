"""Tasks take turns, wait together, and end together."""

import threading
from collections.abc import Callable, Mapping

import pytest

from fedsim.side_by_side import run_side_by_side


def test_questions_of_all_that_wait_are_answered_in_one_call() -> None:
    calls: list[dict[int, int]] = []

    def answer(questions: Mapping[int, int]) -> dict[int, int]:
        calls.append(dict(questions))
        return {number: 10 * question for number, question in questions.items()}

    def task(times: int) -> Callable[[Callable[[int], int]], list[int]]:
        return lambda ask: [ask(number) for number in range(times)]

    assert run_side_by_side([task(1), task(3), task(2), task(0)], answer) == [[0], [0, 10, 20], [0, 10], []]
    assert calls == [{0: 0, 1: 0, 2: 0}, {1: 1, 2: 1}, {1: 2}]


def test_those_that_are_not_answered_wait_on() -> None:
    order: list[int] = []

    def least(questions: Mapping[int, int]) -> dict[int, int]:
        first = min(questions.values())
        return {number: question for number, question in questions.items() if question == first}

    def task(numbers: list[int]) -> Callable[[Callable[[int], int]], None]:
        return lambda ask: order.extend(ask(number) for number in numbers)

    run_side_by_side([task([3, 4]), task([1, 2, 5])], least)
    assert order == [1, 2, 3, 4, 5]


def test_one_task_runs_at_a_time() -> None:
    running: list[int] = []

    def task(ask: Callable[[int], int]) -> None:
        for _ in range(20):
            running.append(1)
            assert len(running) == 1
            running.pop()
            ask(0)

    run_side_by_side([task] * 8, lambda questions: questions)


@pytest.mark.parametrize("where", ["task", "answer"])
def test_an_error_ends_all_of_them(where: str) -> None:
    before = threading.active_count()

    def task(ask: Callable[[int], int]) -> None:
        ask(1)
        if where == "task":
            raise KeyError("broken")
        ask(2)

    def answer(questions: Mapping[int, int]) -> Mapping[int, int]:
        if 2 in questions.values():
            raise KeyError("broken")
        return questions

    with pytest.raises(KeyError, match="broken"):
        run_side_by_side([task, task, task], answer)
    assert threading.active_count() == before
