"""Good and failed replies of a round are counted, and failures are kept by the first line of their reason."""

from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedsim.flower.internals import new_run, node_of
from fedsim.flower.wire import CONFIG
from fedsim.runs.counted import _RECORDED, Counted


def replies(reasons: list[str | None]) -> tuple[list[Message], list[Message]]:
    new_run()  # messages belong to a run
    wave = [Message(RecordDict({CONFIG: ConfigRecord()}), node_of(n), "train") for n in range(len(reasons))]
    answers = [
        Message(RecordDict(), reply_to=sent) if reason is None else Message(Error(1, reason), reply_to=sent)
        for sent, reason in zip(wave, reasons, strict=True)
    ]
    return wave, answers


def test_replies_pass_and_are_counted() -> None:
    counted = Counted([])
    wave, answers = replies([None, "broke\nin line 3", None, "broke\nin line 7", "lost"])
    assert list(counted.of(wave, iter(answers))) == answers
    assert (counted.good, counted.heard, counted.failed) == (2, 5, 3)
    assert counted.failures == {"broke": [1, 3], "lost": [4]}
    wave, answers = replies([None])
    list(counted.of(wave, iter(answers)))
    assert (counted.good, counted.heard, counted.failed) == (1, 6, 3)


def test_many_failures_are_cut() -> None:
    counted = Counted([])
    wave, answers = replies([f"reason {n}" for n in range(_RECORDED + 5)] + ["reason 0"] * _RECORDED)
    list(counted.of(wave, iter(answers)))
    assert counted.failed == 2 * _RECORDED + 5
    assert len(counted.failures) == _RECORDED == len(counted.failures["reason 0"])
