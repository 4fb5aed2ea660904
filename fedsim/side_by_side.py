"""Run tasks in turns until each asks a question, so that one call can answer all questions."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Result = TypeVar("Result")

Task = Callable[[Callable[[Any], Any]], Any]
"""A task; its argument is `ask`: question -> answer."""


class _Abandoned(BaseException):
    """Ends a task whose question will not be answered."""


class _Thread(threading.Thread):
    """One task; it runs only between `wake` and its return."""

    def __init__(self, task: Task) -> None:
        super().__init__(daemon=True)
        self._task = task
        self._told: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def run(self) -> None:
        try:
            self._wait()
            self._heard.put(("done", self._task(self._ask)))
        except BaseException as error:
            self._heard.put(("failed", error))

    def _ask(self, question: Any) -> Any:
        self._heard.put(("asks", question))
        return self._wait()

    def _wait(self) -> Any:
        told = self._told.get()
        if told is _Abandoned:
            raise _Abandoned
        return told

    def wake(self, told: Any) -> tuple[str, Any]:
        """Continue the task with an answer; return ("asks", question), ("done", result) or ("failed", error)."""
        self._told.put(told)
        return self._heard.get()

    def abandon(self) -> None:
        """End the task."""
        self._told.put(_Abandoned)
        self.join()


def run_side_by_side(
    tasks: Sequence[Callable[[Callable[[Question], Answer]], Result]],
    answer: Callable[[Mapping[int, Question]], Mapping[int, Answer]],
) -> list[Result]:
    """Return the results of tasks; each task is called with a function that asks a question and waits for the answer.

    Each task has its own thread, but only one runs at a time, so tasks may share objects that are not thread-safe. When
    all tasks wait, `answer` gets {task number: question}, and answers at least one.

    Raises
    ------
    BaseException
        The first error of a task; the other tasks are ended.
    """
    threads = [_Thread(task) for task in tasks]
    results: dict[int, Result] = {}
    questions: dict[int, Question] = {}
    answers: Mapping[int, Any] = dict.fromkeys(range(len(tasks)))
    try:
        for thread in threads:
            thread.start()
        while answers:
            for number, told in answers.items():
                kind, value = threads[number].wake(told)
                if kind == "failed":
                    raise value
                if kind == "done":
                    results[number] = value
                else:
                    questions[number] = value
            answers = answer(questions) if questions else {}
            questions = {number: question for number, question in questions.items() if number not in answers}
    finally:
        for thread in threads:
            if thread.is_alive():
                thread.abandon()
    return [results[number] for number in range(len(tasks))]
