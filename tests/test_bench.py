"""The benchmark harness: its cases, its checks and its report; no speed is tested here."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fusedrnn.__main__ import main
from fusedrnn.bench import CASES, QUICK, Case, Job, Peer, Store, make_problem, markdown, run_cases, select_cases
from fusedrnn.bench.checking import disagreements, expected_outputs
from fusedrnn.bench.peers import all_peers, select_peers
from fusedrnn.bench.peers.numpy_peer import NumpyPeer
from fusedrnn.bench.problem import Problem
from fusedrnn.bench.report import format_seconds
from fusedrnn.bench.result import Limit, Result
from fusedrnn.bench.timing import Samples

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
        job.call()  # must not change what outputs() gives
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
    assert set(result.samples) == {"numpy"}
    assert result.refused == {"wrong": "dx is off by 2 of its largest value", "failing": "RuntimeError: no such kernel"}
    text = markdown({}, [result])
    assert "wrong was not timed: dx is off by 2" in text
    assert not result.loses


def test_nothing_is_timed_when_the_subject_is_wrong():
    result = run_small(WrongPeer(), NumpyPeer())
    assert result.loses
    assert not result.measured
    assert not result.samples


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
    assert (result.quantile("fusedrnn", 0.0), result.median("fusedrnn")) == (1.0, 10.0)


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
