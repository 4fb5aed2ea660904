"""Colours of figures, and figures for a paper."""

import re

from fedsim.report.figures import GREY, GRID, INK, MUTED
from fedsim.report.html import render_report
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun
from tests.tiny_runs import Cli


def test_figures_have_the_pages_colours(make_run: MakeRun) -> None:
    text = render_report([RunFolder.open(make_run())])
    svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(svgs) == 4
    for svg in svgs:
        assert "var(--muted)" in svg
        assert not {ink.lower() for ink in (INK, MUTED, GREY, GRID)} & set(re.findall("#[0-9a-f]{6}", svg))
        assert "<style" not in svg
    ids = re.findall(r'\bid="([^"]+)"', text)
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', text))
    assert used <= set(ids)
    assert all(ids.count(one) == 1 for one in used)


def test_figures_for_a_paper(cli: Cli, make_run: MakeRun) -> None:
    run = make_run()
    assert cli("report", run, "--figures=pdf").code == 0
    first = (run / "plots" / "accuracy.pdf").read_bytes()
    assert first.startswith(b"%PDF-")
    assert cli("report", run, "--figures=pdf").code == 0
    assert (run / "plots" / "accuracy.pdf").read_bytes() == first
    assert "no such format" in cli("report", run, "--figures=eps").err
