"""The benchmark harness: its cases, its checks and its report. No test here measures speed."""

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import native, probes
from benchmarks.__main__ import main as main_of_clone
from benchmarks.native import BuildError
from benchmarks.peers import all_peers
from benchmarks.probes import make_probes
from fusedrnn.__main__ import main
from fusedrnn.bench import (
    CASES,
    INSTALLED,
    QUICK,
    Case,
    Job,
    Peer,
    Store,
    document,
    forced,
    make_problem,
    markdown,
    run_cases,
    select_cases,
)
from fusedrnn.bench.checking import disagreements, expected_outputs
from fusedrnn.bench.peers import select_peers
from fusedrnn.bench.peers.numpy_peer import NumpyPeer
from fusedrnn.bench.problem import Problem
from fusedrnn.bench.report import format_seconds
from fusedrnn.bench.result import Limit, Rate, Result, Summary
from fusedrnn.bench.targets import judge
from fusedrnn.bench.timing import Samples

ROOT = Path(__file__).parents[1]
CELLS = ("lstm", "gru_after", "gru_before", "rnn_tanh", "rnn_relu")
SMALL = {
    "train": Case("test", "lstm", "train", 5, 3, 4, 6),
    "infer": Case("test", "lstm", "infer", 5, 3, 4, 6),
    "stacked": Case("test", "lstm", "train", 4, 3, 5, 4, layers=2, directions=2),
    "ragged": Case("test", "lstm", "train", 6, 5, 4, 3, directions=2, ragged=True),
    "float64": Case("test", "lstm", "train", 5, 3, 4, 6, dtype="float64"),
    "stream": Case("test", "lstm", "stream", 1, 2, 4, 6),
}
FEW = {"rounds": 2, "seconds": 0.0}


def test_grid_is_well_formed():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert set(QUICK) <= set(CASES)
    assert {case.regime for case in CASES} == {"stream", "seq", "batch", "speech", "deepbench", "float64", "ragged"}
    assert all(case.flops() > 0 for case in CASES)


def test_flops_count_each_product_once():
    case = Case("test", "gru_after", "infer", 10, 4, 5, 7, layers=2, directions=2)
    assert case.flops() == 2 * 40 * 2 * 3 * 7 * ((5 + 7) + (2 * 7 + 7))
    assert replace(case, mode="train").flops(rows=20) == 3 * case.flops() / 2


@pytest.mark.parametrize("wrong", [{"cell": "elman"}, {"mode": "test"}, {"H": 0}, {"dtype": "int8"}, {"directions": 3}])
def test_impossible_case_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^Case: "):
        replace(SMALL["train"], **wrong)


SMALL_CELLS = [replace(case, cell=cell) for case in SMALL.values() for cell in CELLS]


@pytest.mark.parametrize(
    ("peer", "case"),
    [
        pytest.param(peer, case, id=f"{peer.name}-{case.name}")
        for peer in all_peers()
        for case in SMALL_CELLS
        if peer.supports(case)
    ],
)
def test_peer_agrees_with_reference(peer, case):
    if not peer.available():
        pytest.skip(peer.missing())
    problem = make_problem(case)
    expected = expected_outputs(problem)
    with peer.using(1):
        job = peer.prepare(problem)
        job.call()  # must not change the result of outputs()
        outputs = job.outputs()
    assert disagreements(outputs, expected, case.dtype) == []
    assert set(outputs) == set(expected)


class WrongPeer(NumpyPeer):
    """Swaps a sign in one of its outputs."""

    name = "wrong"

    def prepare(self, problem: Problem) -> Job:
        job = super().prepare(problem)
        return Job(job.call, lambda: {name: -a if name == "dx" else a for name, a in job.outputs().items()})


class FailingPeer(NumpyPeer):
    """Raises."""

    name = "failing"

    def prepare(self, problem: Problem) -> Job:
        raise RuntimeError("no such kernel")


def run_small(*peers: Peer) -> Result:
    (result,) = run_cases([SMALL["train"]], list(peers), [1], **FEW)
    return result


def test_peer_with_other_results_is_not_timed():
    result = run_small(NumpyPeer(), WrongPeer(), FailingPeer())
    assert set(result.times) == {"numpy"}
    assert result.refused == {"wrong": "dx is off by 2 of its largest value", "failing": "RuntimeError: no such kernel"}
    text = markdown({}, [result])
    assert "wrong was not timed: dx is off by 2" in text
    assert not result.loses


def test_nothing_is_timed_when_the_subject_is_wrong():
    result = run_small(WrongPeer(), NumpyPeer())
    assert result.loses
    assert not result.measured
    assert not result.times


def test_disagreements_name_the_output():
    expected = {"y": np.ones((2, 2)), "h_n": np.ones(3), "dx": np.full(2, 2.0)}
    outputs = {"y": np.ones((2, 3)), "dx": np.array([2.0, np.nan])}
    assert disagreements(outputs, expected, "float32") == [
        "y has shape (2, 3), expected (2, 2)",
        "h_n is missing",
        "dx is off by nan of its largest value",
    ]


def make_result(case: Case, ours: float, theirs: float) -> Result:
    samples = {"fusedrnn": Samples((ours, ours, 2 * ours), 1), "torch": Samples((theirs, theirs, 2 * theirs), 1)}
    limits = {"FMA": Limit(2e9, "GFLOP/s", Samples((1.0, 1.0, 1.0), 1))}
    return Result(case, 2, "fusedrnn", 1e6, "", samples, {}, ("numpy",), 0.0, "avx2", limits)


def test_lost_case_comes_first():
    won, lost = make_result(SMALL["infer"], 1.0, 3.0), make_result(SMALL["train"], 2e-3, 1e-3)
    rows = [line for line in markdown({"CPU": "some"}, [won, lost]).splitlines() if line.startswith("| test/")]
    assert rows[0].startswith("| test/lstm-train-T5B3I4H6 (slower)")
    assert "2.00 ms" in rows[0]
    assert "1.00 ms (0.50x)" in rows[0]
    assert "torch 3.00x" in rows[1]
    assert len({len(row) for row in rows}) == 1


def test_ratio_is_paired_by_round():
    samples = {"fusedrnn": Samples((1.0, 10.0, 100.0), 1), "torch": Samples((2.0, 20.0, 200.0), 1)}
    result = Result(SMALL["infer"], 1, "fusedrnn", 1e6, "", samples)
    assert result.ratio("torch") == 2.0
    assert result.median("fusedrnn") == 10.0
    assert result.spread("fusedrnn") == pytest.approx((2.8, 82.0))


def test_seconds_have_three_digits():
    assert [format_seconds(s) for s in (1.5, 0.9996, 0.01234, 99.96e-6, 1e-6, 84e-9)] == [
        "1.50 s",
        "1.00 s",
        "12.3 ms",
        "100 us",
        "1.00 us",
        "84.0 ns",
    ]


def test_json_holds_every_sample():
    result = run_small(NumpyPeer(), WrongPeer())
    store = Store()
    store.begin({"CPU": "some"}, {})
    store.add(result)
    (entry,) = json.loads(json.dumps(store.to_json()))["results"]
    assert entry["case"]["name"] == "test/lstm-train-T5B3I4H6"
    assert len(entry["peers"]["numpy"]["seconds"]) == 2
    assert entry["peers"]["numpy"]["ratio"] == 1.0
    assert entry["refused"]["wrong"].startswith("dx is off")


def test_selection():
    assert {case.H for case in select_cases("^seq/gru-before.*B4")} == {128, 256, 512}
    with pytest.raises(ValueError, match=r"^bench: no case matches 'xyz'; --list prints the names$"):
        select_cases("xyz")
    with pytest.raises(ValueError, match=r"^bench: '\(' is not a regular expression"):
        select_cases("(")
    with pytest.raises(ValueError, match=r"^bench: unknown peer tensor; expected some of fusedrnn, "):
        select_peers(("fusedrnn", "tensor"))


def test_command_line(tmp_path, capsys):
    assert main(["bench", "--list", "--quick"]) == 0
    assert capsys.readouterr().out.splitlines() == [case.name for case in QUICK]
    assert main(["bench", "--cases", "xyz"]) == 2
    assert capsys.readouterr().err.startswith("bench: no case matches")
    files = tmp_path / "report.md", tmp_path / "report.json"
    options = ["--rounds", "1", "--peers", "fusedrnn,numpy", "--threads", "1", "--cases", "stream/rnn-I32"]
    assert main(["bench", *options, "--markdown", str(files[0]), "--json", str(files[1])]) == 0
    assert files[0].read_text() == capsys.readouterr().out
    assert json.loads(files[1].read_text())["results"][0]["peers"].keys() == {"fusedrnn", "numpy"}


def test_config_command(capsys):
    assert main(["config"]) == 0
    assert "isa" in capsys.readouterr().out


def make_store(*results: Result, version: str = "fusedrnn 1") -> Store:
    store = Store()
    store.begin({"CPU": "some", "Versions": version, "Date": f"2026-01-0{version[-1]}"}, {"rounds": 3})
    for result in results:
        store.add(result)
    return store


def test_store_keeps_everything(tmp_path):
    wrong = replace(make_result(SMALL["stacked"], 1.0, 2.0), refused={"jax": "y is missing"})
    store = make_store(make_result(SMALL["infer"], 1.0, 3.0), wrong)
    store.save(tmp_path / "new" / "results.json")
    loaded = Store.load(tmp_path / "new" / "results.json")
    assert loaded.results == store.results
    assert loaded.runs == store.runs
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]


def test_newer_results_replace_older_ones():
    store = make_store(make_result(SMALL["infer"], 1.0, 3.0), make_result(SMALL["train"], 1.0, 3.0))
    store.merge(make_store(make_result(SMALL["infer"], 1.0, 2.0), version="fusedrnn 2"))
    assert {result.case.mode: result.ratio("torch") for result in store.results} == {"infer": 2.0, "train": 3.0}
    assert store.machine(store.results)["Versions"] == "fusedrnn 1; fusedrnn 2"
    assert store.machine(store.results)["Date"] == "2026-01-01 to 2026-01-02"


def test_store_knows_what_is_missing():
    store = make_store(make_result(SMALL["infer"], 1.0, 3.0))
    assert store.covers(SMALL["infer"], 2, "avx2", ["fusedrnn", "torch", "numpy"])
    assert not store.covers(SMALL["infer"], 2, "avx2", ["fusedrnn", "jax"])
    assert not store.covers(SMALL["infer"], 1, "avx2", ["fusedrnn"])
    assert not store.covers(SMALL["infer"], 2, "avx512", ["fusedrnn"])


@pytest.mark.parametrize("text", ["{", '{"format": 1}', '{"format": 2}', "[]"])
def test_other_files_are_no_results(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^bench: "):
        Store.load(path)
    assert main(["bench", "--from", str(path)]) == 2


def test_run_is_resumed(tmp_path, capsys):
    file = tmp_path / "results.json"
    options = ["bench", "--rounds", "1", "--peers", "fusedrnn,numpy", "--threads", "1", "--append", str(file)]
    assert main([*options, "--cases", "stream/rnn-I32"]) == 0
    (first,) = Store.load(file).results
    assert main([*options, "--cases", "stream/rnn-I(32|64)"]) == 0
    assert "stream/rnn-I32H64, 1" in capsys.readouterr().err.split("[1/2]")[0]
    assert Store.load(file).results[0] == first
    assert len(Store.load(file).results) == 2
    assert main([*options, "--cases", "stream/rnn-I32", "--again"]) == 0
    assert len(Store.load(file).runs) == 3


def test_bound_is_never_the_best_peer():
    result = make_result(SMALL["train"], 1.0, 2.0)
    result = replace(result, times={**result.times, "onednn-prepacked": Samples((0.5, 0.5, 0.5), 1)})
    assert result.best_peer == "torch"
    assert not result.loses


def test_targets_are_judged_by_their_worst_case():
    good = make_result(Case("batch", "lstm", "train", 5, 3, 4, 6), 1.0, 1.7)
    bad = make_result(Case("batch", "lstm", "train", 5, 3, 4, 8), 1.0, 1.1)
    verdicts = {v.target.name: v for v in judge([good, bad])}
    torch = verdicts["training LSTM, torch"]
    assert (torch.status, torch.cases, torch.worst, torch.worst_case) == ("missed", 2, 1.1, bad.case.name)
    assert torch.mean == pytest.approx((1.7 * 1.1) ** 0.5)
    assert verdicts["every case, every peer"].status == "aim reached"
    assert "training LSTM, oneDNN with its reorders" not in verdicts


def test_every_regime_has_a_target():
    results = [make_result(case, 1.0, 2.0) for case in CASES]
    judged = [v.target for v in judge(results) if v.target.name != "every case, every peer"]
    left = {case.regime for case in CASES if not any(target.covers(case) for target in judged)}
    assert left <= {"deepbench", "ragged", "speech", "seq"}  # of these only some cases
    assert {v.threads for v in judge(results)} == {2}


def test_report_is_drawn_from_files(tmp_path, capsys):
    sizes = [Case("batch", "lstm", "train", 5, 3, 4, H) for H in (6, 8)]
    make_store(make_result(sizes[0], 1.0, 3.0)).save(tmp_path / "1.json")
    make_store(make_result(sizes[1], 2e-3, 1e-3), version="fusedrnn 2").save(tmp_path / "2.json")
    files = f"{tmp_path / '1.json'},{tmp_path / '2.json'}"
    assert main(["bench", "--from", files, "--report", str(tmp_path / "docs")]) == 0
    written = capsys.readouterr().out.split()
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert (
        "Slower than a peer in 1 of 2 results (2 cases):\n\n- batch/lstm-train-T5B3I4H8, 2 threads: torch 0.50x" in text
    )
    assert "## 2 threads" in text
    drawn = {"batch-train-avx2-2t.svg", "roofline-avx2-2t.svg"} if importlib.util.find_spec("matplotlib") else set()
    assert {Path(path).name for path in written} == {"benchmarks.md", "results.json"} | drawn
    assert links_of(text) == {f"benchmarks/{name}" for name in drawn}
    before = [Path(path).read_bytes() for path in written]
    assert main(["bench", "--from", files, "--report", str(tmp_path / "docs")]) == 0
    assert [Path(path).read_bytes() for path in written] == before  # no date, no random names
    capsys.readouterr()
    assert main(["bench", "--from", files]) == 0
    assert "lstm-train-T5B3I4H8 (slower)" in capsys.readouterr().out


def links_of(page: str) -> set[str]:
    """The picture files of the page."""
    return {*re.findall(r"^!\[[^]]*\]\(([^)]*)\)$", page, re.MULTILINE)}


def without_links(page: str) -> str:
    return re.sub(r"^!\[.*\n\n", "", page, flags=re.MULTILINE)


def test_summary_says_what_samples_say(tmp_path):
    store = make_store(make_result(SMALL["infer"], 1.0, 3.0), make_result(SMALL["train"], 2e-3, 1e-3))
    (first, _) = store.summarised().results
    assert first.times == {"fusedrnn": Summary(1.0, 1.0, 1.0, 1.8), "torch": Summary(3.0, 3.0)}
    assert first.limits == {"FMA": Rate(2.0, 0.0005)}
    assert markdown({}, store.summarised().results) == markdown({}, store.results)
    store.save(tmp_path / "summary.json", samples=False)
    assert Store.load(tmp_path / "summary.json").to_json() == store.summarised().to_json()
    lines = (tmp_path / "summary.json").read_text().splitlines()
    assert sum('"case":' in line for line in lines) == 2  # a line for each


def test_report_keeps_summaries_and_goes_on(tmp_path, capsys):
    options = ["bench", "--rounds", "1", "--peers", "fusedrnn,numpy", "--threads", "1", "--report", str(tmp_path)]
    assert main([*options, "--cases", "stream/rnn-I32"]) == 0
    (first,) = Store.load(tmp_path / "benchmarks" / "results.json").results
    assert {type(times) for times in first.times.values()} == {Summary}
    assert main([*options, "--cases", "stream/rnn-I(32|64)"]) == 0
    assert "[2/2]" not in capsys.readouterr().err
    assert Store.load(tmp_path / "benchmarks" / "results.json").results[0] == first


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published page and its files, drawn from files in a clone by the command in benchmarks/README.md."""
    docs = tmp_path_factory.mktemp("clone") / "docs"
    (docs / "benchmarks").mkdir(parents=True)
    shutil.copy(ROOT / "docs/benchmarks/results.json", docs / "benchmarks")
    command = "bench --report docs --from docs/benchmarks/results.json"
    assert f"python -m fusedrnn {command}" in (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    with contextlib.chdir(docs.parent):
        assert main(command.split()) == 0
    return docs


def test_published_page_is_what_its_results_give(redrawn):
    published, again = ((docs / "benchmarks.md").read_text(encoding="utf-8") for docs in (ROOT / "docs", redrawn))
    assert without_links(again) == without_links(published)  # without matplotlib there are no plots to link to
    files = [(docs / "benchmarks/results.json").read_text(encoding="utf-8") for docs in (ROOT / "docs", redrawn)]
    assert files[0] == files[1]
    plots = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs/benchmarks").glob("*.svg")}
    assert links_of(published) == plots
    assert len(plots) == 4


def test_published_plots_are_what_the_results_give(redrawn):
    matplotlib = pytest.importorskip("matplotlib", reason="plots are drawn by matplotlib, which is not installed")
    names = [path.name for path in sorted((redrawn / "benchmarks").glob("*.svg"))]
    assert names == [path.name for path in sorted((ROOT / "docs/benchmarks").glob("*.svg"))]
    for name in names:
        published, again = ((docs / "benchmarks" / name).read_text() for docs in (ROOT / "docs", redrawn))
        marks = [(re.findall(r">([^<>]*)</text>", svg), svg.count("<use ")) for svg in (published, again)]
        assert marks[0] == marks[1]
        if f"matplotlib {matplotlib.__version__} " in published:  # other versions measure text differently
            assert again == published
        assert published.count("\n") < 2000


def test_report_needs_results(tmp_path):
    with pytest.raises(ValueError, match=r"^bench: there are no results to report$"):
        document.write(Store(), tmp_path)


def test_wheel_knows_what_packages_for_python_are_enough_for(capsys):
    names = [peer.name for peer in INSTALLED.peers]
    assert names == [
        "fusedrnn",
        "fusedrnn-unfrozen",
        "numpy",
        "torch",
        "torch-no-onednn",
        "onnxruntime",
        "onnxruntime-binding",
    ]
    assert [probe.name for probe in INSTALLED.make_probes("float32", 1)] == ["gemm"]
    assert [peer.name for peer in all_peers()][: len(names)] == names
    assert main(["bench", "--peers", "fusedrnn,jax"]) == 2
    assert "(python -m benchmarks, in the source tree, has them all)" in capsys.readouterr().err
    code = "import sys, fusedrnn.bench.cli; sys.exit(any(name.split('.')[0] == 'benchmarks' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_clone_has_the_same_command_line_and_more_peers(capsys):
    assert main_of_clone(["--list", "--quick"]) == 0
    assert capsys.readouterr().out.splitlines() == [case.name for case in QUICK]
    options = ["--rounds", "1", "--peers", "fusedrnn,numpy,jax", "--threads", "1", "--cases", "stream/rnn-I32"]
    assert main_of_clone(options) == 0
    assert "- Probes: " in capsys.readouterr().out


def test_isa_is_forced_in_another_process(monkeypatch):
    seen = {}

    def run(command, env, check):
        seen.update(command=command, env=env)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.delenv(forced.MARK, raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    assert main(["bench", "--isa", "avx2", "--quick", "--cases=-I", "--peers", "fusedrnn,torch", "--threads=2"]) == 3
    assert seen["command"][1:4] == ["-m", "fusedrnn", "bench"]
    assert main_of_clone(["--isa", "avx2", "--quick", "--cases=-I", "--peers", "fusedrnn,torch", "--threads=2"]) == 3
    assert seen["command"][1:3] == ["-m", "benchmarks"]
    assert seen["env"]["FUSEDRNN_ISA"] == "avx2"
    assert seen["env"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert seen["env"]["ATEN_CPU_CAPABILITY"] == "avx2"
    assert {"--isa", "avx2", "--quick", "--cases=-I", "--peers=fusedrnn,torch", "--threads=2"} <= {*seen["command"]}
    assert not any(argument.startswith("--json") for argument in seen["command"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probes_run(dtype):
    for probe in make_probes(dtype, 1):
        with probe.using():
            probe.call()
        assert probe.amount > 0
        assert probe.unit == ("GB/s" if probe.name.startswith("L") else "GFLOP/s")


def test_matrix_product_stands_in_where_nothing_compiles(monkeypatch):
    def load(source: str, flags: tuple[str, ...] = ()) -> None:
        raise BuildError("no C++ compiler was found")

    probes._library.cache_clear()
    monkeypatch.setattr(probes, "load", load)
    try:
        assert [probe.name for probe in make_probes("float32", 1)] == ["gemm"]
        assert "no C++ compiler" in probes.describe_probes()
    finally:
        probes._library.cache_clear()


def test_compiler_errors_are_short(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(BuildError, match=r"^false failed: 1$"):
        native.build.load("probes.cpp", ("-DNOTHING",))
    assert list(tmp_path.rglob("*.so")) == []
