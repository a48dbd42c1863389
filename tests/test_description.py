"""Numbers of parameters, summaries, HTML, and what help() shows."""

import copy
import inspect
import pickle
from html.parser import HTMLParser

import pytest

import fusedrnn

OBJECTS = {
    "layer": lambda: fusedrnn.LSTM(3, 4, 2, bidirectional=True, peephole="ifo"),
    "cell": lambda: fusedrnn.GRUCell(3, 4),
    "stack": lambda: fusedrnn.Stack([fusedrnn.GRU(3, 4), fusedrnn.MinGRU(4, 5)]),
    "bidirectional": lambda: fusedrnn.Bidirectional(fusedrnn.GRU(3, 4), fusedrnn.RNN(3, 2)),
    "ensemble": lambda: fusedrnn.Ensemble([fusedrnn.GRU(3, 4) for _ in range(3)]),
    "frozen": lambda: fusedrnn.GRU(3, 4, dtype="float64").freeze(),
    "frozen stack": lambda: fusedrnn.Stack([fusedrnn.GRU(3, 4), fusedrnn.RNN(4, 5)]).freeze(),
    "linear": lambda: fusedrnn.Linear(3, 4),
    "embedding": lambda: fusedrnn.Embedding(1000, 4),
}
ALL = pytest.mark.parametrize("kind", OBJECTS)


class Cells(HTMLParser):
    """The texts of a table's cells; an error for tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@ALL
def test_all_parameters_are_counted_and_shown(kind):
    thing = OBJECTS[kind]()
    total = sum(array.size for array in thing.params.values())
    assert thing.num_parameters == total
    summary = thing.summary()
    assert str(summary) == repr(summary)
    lines = summary.splitlines()
    assert lines[0] == repr(thing)
    assert [line.split()[0] for line in lines[2:-1]] == list(thing.params)
    assert lines[-1].split()[-1] == f"{total:,}"
    for line, array in zip(lines[2:-1], thing.params.values(), strict=True):
        assert str(array.shape) in line
    table = Cells()
    table.feed(thing._repr_html_())
    assert not table.open
    assert table.texts[0] == repr(thing)  # escaped, and read back
    assert {*thing.params, f"{total:,}"} <= set(table.texts)


@ALL
def test_descriptions_do_not_disturb_copies(kind):
    thing = OBJECTS[kind]()
    for other in (copy.copy(thing), copy.deepcopy(thing), pickle.loads(pickle.dumps(thing))):
        assert other == thing


def public():
    things = {name: getattr(fusedrnn, name) for name in fusedrnn.__all__}
    things |= {f"functional.{name}": getattr(fusedrnn.functional, name) for name in dir(fusedrnn.functional)}
    things |= {f"optim.{name}": getattr(fusedrnn.optim, name) for name in fusedrnn.optim.__all__}
    things |= {f"interop.{name}": getattr(fusedrnn.interop, name) for name in fusedrnn.interop.__all__}
    things |= {f"losses.{name}": getattr(fusedrnn.losses, name) for name in fusedrnn.losses.__all__}
    things = {name: thing for name, thing in things.items() if callable(thing) and name[0] != "_"}
    return {name: t for name, t in things.items() if getattr(t, "__module__", "").startswith("fusedrnn")}


@pytest.mark.parametrize("name", public())
def test_signatures_show_annotations_without_quotes(name):
    thing = public()[name]
    members = [thing, *(value for _, value in inspect.getmembers(thing, inspect.isfunction))]
    for member in members:
        if isinstance(member, type) and not member.__module__.startswith("fusedrnn"):
            continue
        try:
            shown = str(inspect.signature(member))
        except ValueError:  # classes of the compiled module
            continue
        assert ": '" not in shown
        assert "-> '" not in shown


def test_type_hints_can_still_be_evaluated():
    assert inspect.get_annotations(fusedrnn.GRU.__init__)["hidden_size"] == "int"
    assert "hidden_size: int" in str(inspect.signature(fusedrnn.GRU))
