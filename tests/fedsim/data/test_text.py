"""A text is cut into samples of its clients, each with a later part of its own to test on, and nothing leaks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedsim
from fedsim.config.resolve import resolve
from fedsim.data.characters import Vocabulary, character_name
from fedsim.data.config import DataConfig
from fedsim.data.datasets import load_dataset
from fedsim.data.federation import clients_by, federate
from fedsim.data.play import play
from fedsim.data.text import passages_of, samples_of
from fedsim.data.text_config import TextConfig
from fedsim.errors import FedsimError

SCENES = """A note before the play.

ACT I

ANNA:
Good day to you.
And to the sea.

BOB. Good night, I say!
    It is late.

SCENE II. A street.
Enter a cat.

Anna:
Late? Never.
"""
BOOK = """# One

It was a day.

# Two
It was a night.

CHAPTER III

It was neither.
"""


def test_speeches_of_one_speaker_are_one_client_whichever_way_they_begin():
    passages, kind = passages_of(SCENES, TextConfig())
    assert kind == "speakers"
    assert passages == [
        ("Anna", "Good day to you.\nAnd to the sea.\nLate? Never.\n"),
        ("Bob", "Good night, I say!\nIt is late.\n"),
    ]


def test_sections_stand_between_headings():
    for clients in ("auto", "section"):
        passages, kind = passages_of(BOOK, TextConfig(clients=clients))
        assert kind == "sections"
        assert passages == [
            ("One", "It was a day.\n"), ("Two", "It was a night.\n"), ("CHAPTER III", "It was neither.\n"),
        ]  # fmt: skip
    names = [name for name, _ in passages_of("# A\nx\n# A\ny\n# B\nz", TextConfig())[0]]
    assert names == ["A", "A (2)", "B"]


def test_sentences_that_end_in_a_full_stop_are_no_speakers():
    assert passages_of("Yes. I do.\nNo. I do not.\nStop.\nII.\nI. The first.\n", TextConfig())[1] == ""


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.floats(0.2, 0.5), st.text("ab\n \xe4", max_size=300))
def test_samples_are_the_windows_of_each_part_and_reach_over_no_border(length, stride, fraction, speech):
    text = f"ANN:\n{speech}{'ab' * 60}\nBOB:\n{'ba' * 60}\n"
    found = samples_of(text, "x", TextConfig(length=length, stride=stride), fraction, need_clients=True)
    vocabulary = Vocabulary.named(found.classes)
    for client, (_, whole) in enumerate(passages_of(text, TextConfig())[0]):
        border = round(len(whole) * (1 - fraction))
        for part, some in ((found.train, whole[:border]), (found.test, whole[border:])):
            codes, mine = vocabulary.encode(some), part.identity == client
            starts = range(0, len(codes) - length, stride)
            assert [row.tolist() for row in part.x[mine]] == [codes[s : s + length].tolist() for s in starts]
            assert part.y[mine].tolist() == [int(codes[s + length]) for s in starts]
    training = "".join(w[: round(len(w) * (1 - fraction))] for _, w in passages_of(text, TextConfig())[0])
    assert found.classes == (*map(character_name, sorted(set(training))), "unknown")


def test_a_file_makes_a_federation_of_its_speakers(tmp_path: Path):
    file = tmp_path / "play.txt"
    file.write_bytes(play().replace("\n", "\r\n").encode("utf-16"))
    config = DataConfig(name=f"text:{file}", text=TextConfig(length=10, stride=5))
    dataset = load_dataset(config, 0)
    embedded = load_dataset(DataConfig(name="play", text=TextConfig(length=10, stride=5)), 7)
    for name in ("x_train", "y_train", "x_test", "y_test", "identity_train", "identity_test"):
        assert np.array_equal(getattr(dataset, name), getattr(embedded, name))
    assert dataset.is_text
    assert dataset.has_classes
    assert "encoded in UTF-16" in dataset.reading
    data = federate(config, 8, 0)
    assert clients_by(config, dataset) == "speaker"
    for client, name in enumerate(dataset.client_names):
        assert (dataset.identity_train[data.partition[client]] == client).all()
        assert (dataset.identity_test[data.client_test[client]] == client).all()
        assert name.upper() in play()
    with pytest.raises(FedsimError, match=r"^clients: the data name 8, got 5; leave --clients out$"):
        federate(config, 5, 0)


def test_clients_may_be_drawn_instead(tmp_path: Path):
    (tmp_path / "a.txt").write_text("no speakers here, only words. " * 20)
    config = DataConfig(name=f"text:{tmp_path / 'a.txt'}", text=TextConfig(length=8), partition="iid")
    data = federate(config, 3, 0)
    assert data.dataset.identity_train is None
    assert len(data.partition) == 3
    spoken = federate(DataConfig(name="play", text=TextConfig(length=8), partition={"name": "dirichlet"}), 3, 0)
    assert spoken.dataset.columns["identity"].names[0] in ("Piper", "Miller")


def test_a_long_tail_that_a_method_starts_from_is_left_out_of_texts():
    for layer in ({"data": {"name": "play"}}, {"data.name": "text:a.txt"}):
        config = resolve({"strategy": "fedloge"}, layer)
        assert (config.data.imbalance_factor, config.model.norm) == (1, None)
    assert resolve({"strategy": "fedloge"}).data.imbalance_factor == 0.1
    asked = resolve({"strategy": "fedloge", "data": {"name": "play", "imbalance_factor": 0.1}})
    with pytest.raises(FedsimError, match=r"has no samples .* add --set data\.imbalance_factor=1$"):
        federate(asked.data, 8, 0)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "no such file"),
        (b"\x00\x81\x00", {}, "cannot be read as a text"),
        (b"", {}, "no two speakers or sections found"),
        (b"plain words " * 9, {}, "no two speakers or sections found"),
        (BOOK.encode(), {"clients": "speaker"}, "no two speakers found"),
        (SCENES.encode(), {"length": 60}, r"no part of it is longer than data.text.length \(60\)"),
    ],
)  # fmt: skip
def test_what_is_no_such_text_is_refused_in_one_line(tmp_path: Path, content, options, message):
    file = tmp_path / "a.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(FedsimError, match=rf"^{file}: {message}.*\Z"):
        load_dataset(DataConfig(name=f"text:{file}", text=TextConfig(**options)), 0)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("model", [{"name": "lstm", "width": 8}, {"name": "transformer", "width": 8, "heads": 2}])
def test_ray_comes_to_the_bits_of_one_process(tmp_path: Path, model, no_pictures: None):
    (tmp_path / "play.txt").write_text(play())
    config = {
        "model": model, "rounds": 2, "training": {"epochs": 1}, "out": str(tmp_path),
        "data": {"name": f"text:{tmp_path / 'play.txt'}", "text": {"length": 10, "stride": 40}},
    }  # fmt: skip
    engines = ({"name": "inprocess"}, {"name": "ray", "num_workers": 2})
    one, ray = (fedsim.run({**config, "name": engine["name"], "engine": engine}).folder for engine in engines)
    assert (one / "model.safetensors").read_bytes() == (ray / "model.safetensors").read_bytes()
