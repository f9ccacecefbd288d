"""The page of the ranks of a run: what is in its file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from many_ranks import meeting_trace, rank_trace, two_stages
from pages import embedded

import torchprof
from torchprof.cli.main import main
from torchprof.reporting.ranks_chart import MOST_BARS, ranks_chart

CAME = [[10, 10, 18], [10, 10, 18]]


def run(**facts: Any) -> torchprof.Ranks:
    return torchprof.Ranks.of([meeting_trace(rank, CAME, **facts) for rank in range(3)])


def page_of(ranks: torchprof.Ranks, folder: Path) -> Path:
    torchprof.report(ranks, folder / "run.html")
    return folder / "run.html"


def test_the_page_has_the_tables_of_the_library(tmp_path: Path) -> None:
    ranks = run()
    tables = embedded(page_of(ranks, tmp_path))["tables"]
    assert list(tables) == ["ranks", "late", "late_collectives", "modules", "collectives", "overlap", "imbalance", "clocks"]
    assert tables["ranks"]["names"] == ["0", "1", "2"]
    found = torchprof.stragglers(ranks)
    (late,) = [column for column in tables["late"]["columns"] if column["name"] == "late"]
    assert late["values"] == pytest.approx([row["late"] for row in found.causes.to_dict()])
    assert tables["modules"]["names"][:2] == ["Net", "fc (Linear)"]


def test_the_verdict_and_the_findings_stand_on_top(tmp_path: Path) -> None:
    page = re.sub(r"<[^>]+>|\s+", " ", page_of(run(), tmp_path).read_text().split('<script type="application/json"')[0])
    text = re.sub(r"\s+", " ", page)
    assert "Net, 3 ranks" in text
    assert "A step takes 40.0 ms , the mean of 3 ranks" in text
    assert "Ranks are late by 8.00 ms of a step; most of that is rank 2, by forward of fc" in text
    assert "Rank 2 came last to 2 of 2 collectives, late by 8.00 ms of a step, mostly by forward of fc" in text
    assert "Clocks: all ranks ran on node0, and read one clock" in text


def test_the_error_of_the_clocks_stands_in_the_verdict(tmp_path: Path) -> None:
    ranks = torchprof.Ranks.of([meeting_trace(rank, [[10, 18]] * 2, host=f"node{rank}") for rank in range(2)])
    text = re.sub(r"<[^>]+>|\s+", " ", page_of(ranks, tmp_path).read_text().split('<script type="application/json"')[0])
    assert "Ranks are late by 8.00 ms ± 900 us of a step; most of that is rank 1" in re.sub(r"\s+", " ", text)
    assert "Clocks: node1 shows the time of the first, within 900 us" in text


def test_the_largest_cause_is_most_of_it_where_it_is(tmp_path: Path) -> None:
    ranks = torchprof.Ranks.of([meeting_trace(rank, [[18, 10, 10], [10, 18, 10], [10, 10, 19]]) for rank in range(3)])
    text = re.sub(r"<[^>]+>|\s+", " ", page_of(ranks, tmp_path).read_text().split('<script type="application/json"')[0])
    assert "Ranks are late by 8.33 ms of a step; 2.99 ms of that is rank 2, by forward of fc" in re.sub(r"\s+", " ", text)


def test_where_nothing_was_found_what_could_not_be_looked_for_is_open(tmp_path: Path) -> None:
    alone = page_of(torchprof.Ranks.of([meeting_trace(1, CAME)]), tmp_path).read_text()
    assert "Nothing could be looked for." in alone
    assert '<details class="not-told" open>' in alone
    assert "rank 1 alone is there of 3: who came late takes the others too" in alone
    assert "A step takes <b>40.0 ms</b> in rank 1" in re.sub(r"\s+", " ", alone).replace("</a>", "")
    assert '<details class="not-told">' in page_of(run(), tmp_path).read_text()


def test_findings_lead_to_their_section(tmp_path: Path) -> None:
    html = page_of(run(), tmp_path).read_text()
    assert '<a href="#stragglers">Stragglers</a>' in html.split('<p class="places">')[1].split("</p>")[0]
    assert '<section id="stragglers"' in html


def test_places_along_the_mesh_have_a_table_each(tmp_path: Path) -> None:
    traces = [
        meeting_trace(rank, CAME, meshes=[{"dimensions": ["dp"], "shape": [3], "coordinate": [rank]}]) for rank in range(3)
    ]
    tables = embedded(page_of(torchprof.Ranks.of(traces), tmp_path))["tables"]
    assert tables["imbalance_0"]["names"] == ["dp=0", "dp=1", "dp=2"]


def test_a_pipeline_has_a_section_of_its_bubbles(tmp_path: Path) -> None:
    page = page_of(torchprof.Ranks.of(two_stages()), tmp_path)
    tables = embedded(page)["tables"]
    assert tables["bubbles"]["names"] == ["0", "1"]
    (warm_up,) = [column for column in tables["bubbles"]["columns"] if column["name"] == "warm_up"]
    assert warm_up["values"] == [7e6, 2e6]
    assert "ideal 20.0%, with 2 stages and 4 microbatches" in page.read_text()


def test_aggregated_ranks_have_a_page_that_says_what_it_does_not_have(tmp_path: Path) -> None:
    page = page_of(run(aggregate=True), tmp_path)
    assert {"ranks", "modules"} <= set(embedded(page)["tables"])
    assert "holds sums, and no single collectives: record without aggregate=True." in page.read_text()


def test_a_bar_of_many_ranks_is_the_one_longest_in_forward() -> None:
    of_many = torchprof.by_rank(
        torchprof.Ranks.of(
            [rank_trace(rank, 2 * MOST_BARS, forward=(20 if rank == 7 else 10,)) for rank in range(2 * MOST_BARS)]
        )
    )
    figure, said = ranks_chart(of_many)
    assert said == ["Each bar is that of 2 ranks in a row which is longest in forward"]
    assert len(figure["data"][0]["x"]) == MOST_BARS
    assert 7 in figure["data"][0]["x"]
    assert ranks_chart(torchprof.by_rank(run()))[1] == []


def test_ceilings_are_of_one_trace(tmp_path: Path) -> None:
    with pytest.raises(torchprof.ArgumentError, match=r"ceilings=.* are for the page of one trace"):
        torchprof.report(run(), tmp_path / "x.html", ceilings=torchprof.Ceilings("H100", "float32", 0, flops=1e12, bytes=1e12))


def test_report_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for made in run():
        made.save("run/")
    assert main(["report", "run/"]) == 0
    assert (tmp_path / "run.html").exists()
    capsys.readouterr()
    for option, value in (("--device", "cuda:0"), ("--ceilings", "H100-80GB:bf16")):
        with pytest.raises(SystemExit, match="2"):
            main(["report", "run/", option, value])
        assert option in capsys.readouterr().err
