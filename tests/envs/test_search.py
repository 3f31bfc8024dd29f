"""A graph and passages that are searched: what is found, in which order, and what is refused."""

import json
import math
import re

import numpy as np
import pytest

from jaxevo.envs import Passage, Search, load_corpus
from jaxevo.envs.corpus import Ranked
from jaxevo.envs.graph import after, leads, starts
from jaxevo.models import hub
from jaxevo.recipes.pi_play import pi_play
from jaxevo.run.build import build_run
from jaxevo.run.options import RunOptions

TEXTS = [
    ("Cello", "The cello is a bowed string instrument, larger than the viola."),
    ("Viola", "The viola is larger than the violin, and smaller than the cello: the cello is low."),
    ("Harp", "A harp is plucked."),
    ("Violin", "A bowed string instrument of four strings."),
    ("Lute", "A lute is plucked."),
]
PASSAGES = [Passage(title, text) for title, text in TEXTS]


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


# ---------------------------------------------------------------------------- the graph
def test_the_graph_is_one_round_trip_that_is_the_same_for_everybody():
    assert sorted(leads()) == sorted(leads().values()) == [str(n) for n in range(10, 100)]
    assert after("12", 90) == "12"
    assert len({after("12", hops) for hops in range(90)}) == 90
    assert [after("12", hops) for hops in range(4)] == ["12", "49", "99", "93"]


def test_no_held_out_number_starts_a_walk():
    train, held_out = starts()
    assert len(train) == 68
    assert sorted((*train, *held_out)) == sorted(leads())
    assert load_corpus("graph").starts == train


@pytest.mark.parametrize("query", ["12", " 12\n"])
def test_a_key_is_looked_up_exactly(query):
    tool = Search()
    assert (tool.reply(query, compact=True).text, tool.reply(query, compact=True).error) == (
        "(49)",
        "",
    )
    assert tool.reply(query, compact=False).text == "\n<result>12: 49</result>"


@pytest.mark.parametrize(
    "query", ["", "1", "012", "12*", "12]", "[12", "9", "100", "1²", "x" * 999]
)
def test_an_unknown_key_is_said_to_be_unknown(query):
    compact, chat = (Search().reply(query, compact=form) for form in (True, False))
    assert (compact.text, chat.text) == ("(?)", "\n<error>nothing found</error>")
    assert compact.error == chat.error == "nothing found"
    again = [Search().reply(query, compact=form, again=True).text for form in (True, False)]
    told = "\n<error>nothing found, as before; look for something else</error>"
    assert again == ["(??)", told]


def test_marks_and_manual_have_two_forms():
    tool = Search()
    assert (tool.marks(compact=True), tool.manual(compact=True)) == (("[", "]"), "")
    begin, end = tool.marks(compact=False)
    assert f"{begin}what you look for{end}" in tool.manual(compact=False)
    assert tool.manual(compact=False).endswith("\n")


# ---------------------------------------------------------------------------- passages
def bm25(query, texts, k=1.2, b=0.75):
    """In float64, from the formula."""
    documents = [re.findall(r"\w+", text.lower()) for text in texts]
    length_N = np.array([len(words) for words in documents], float)
    score_N = np.zeros(len(texts))
    for word in re.findall(r"\w+", query.lower()):
        f_N = np.array([words.count(word) for words in documents], float)
        idf = math.log(1 + (len(texts) - (f_N > 0).sum() + 0.5) / ((f_N > 0).sum() + 0.5))
        share_N = length_N / length_N.mean()
        score_N += idf * f_N * (k + 1) / (f_N + k * (1 - b + b * share_N))
    return score_N


@pytest.mark.parametrize("query", ["bowed string", "the CELLO, the cello!", "plucked", "a is", "?"])
def test_scores_are_those_of_bm25(query):
    corpus = Ranked(PASSAGES)
    want_N = bm25(query, [f"{title} {text}" for title, text in TEXTS])
    found = corpus.scores(query)
    assert sorted(found) == np.flatnonzero(want_N).tolist()
    np.testing.assert_allclose([found[n] for n in sorted(found)], want_N[want_N > 0], rtol=1e-12)
    order = sorted(found, key=lambda n: (-round(want_N[n], 9), n))
    assert corpus.find(query, 9) == [PASSAGES[n] for n in order]


def test_equal_passages_come_in_their_order_and_no_more_than_asked():
    corpus = Ranked(PASSAGES)
    assert [p.title for p in corpus.find("plucked", 2)] == ["Harp", "Lute"]
    assert [p.title for p in corpus.find("plucked", 1)] == ["Harp"]
    assert corpus.find("guitar", 3) == []


def test_a_file_of_passages_is_searched(tmp_path):
    lines = [{"title": title, "text": text, "source": 1} for title, text in TEXTS]
    name = write(tmp_path / "music.jsonl", *lines)
    told = Search(name, 2).reply("what is plucked?", compact=False)
    assert told.text == "\n<result>Harp: A harp is plucked.\nLute: A lute is plucked.</result>"
    assert Search(name, 1).reply("plucked", compact=False).text.count("plucked") == 1
    assert list(Search(name).source.starts) == [title for title, _ in TEXTS]
    assert not Search(name).source.worked
    assert Search(name, 2) == Search(name, 2)
    assert len({Search(name, 2), Search(name, 2), Search(name, 3)}) == 2


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "the file is empty"),
        ([{"title": "a"}], "line 1: a passage needs a title and a text"),
        ([{"title": "a", "text": "b"}, {"title": " ", "text": "b"}], "line 2: a passage needs"),
        ([{"title": "a", "text": 7}], "line 1: a passage needs"),
        ([["a", "b"]], "line 1: needs a JSON object"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(lines, says, tmp_path):
    with pytest.raises(ValueError, match=says) as fault:
        Search(write(tmp_path / "bad.jsonl", *lines))
    assert str(fault.value).startswith(str(tmp_path / "bad.jsonl"))
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("name", ["wikipedia", "passages.txt", ""])
def test_an_unknown_corpus_is_refused(name):
    with pytest.raises(ValueError, match=r"no corpus .* There is 'graph', or give the path of"):
        pi_play(corpus=name)
    with pytest.raises(ValueError, match=r"none\.jsonl: cannot be read"):
        Search("none.jsonl")
    with pytest.raises(ValueError, match="needs at least 1"):
        pi_play(passages=0)


def test_a_model_of_characters_cannot_search_words(tmp_path, tiny_model):
    name = write(tmp_path / "music.jsonl", {"title": "Harp", "text": "A harp."})
    assert isinstance(tiny_model, hub.LoadedModel)
    with pytest.raises(ValueError, match="has words, which models of characters cannot read"):
        build_run(pi_play(corpus=name), RunOptions(model="tiny", task="hops"), model=tiny_model)
