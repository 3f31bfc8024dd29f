"""Instruction checks: each kind by texts that follow and texts that do not, and all real lists."""

import gzip
import importlib.util
import json
import pathlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxevo.rewards import instructions
from jaxevo.rewards.ifeval import KINDS, ifeval, ifeval_loose
from jaxevo.rewards.named import VERIFIERS
from jaxevo.types import Message, Task

DATA = pathlib.Path(__file__).parent.parent / "data" / "ifeval_kwargs.jsonl.gz"
HAS_LANGDETECT = importlib.util.find_spec("langdetect") is not None
needs_langdetect = pytest.mark.skipif(not HAS_LANGDETECT, reason="needs jaxevo[ifeval]")
GERMAN = "Der Hund schläft seit heute Morgen auf dem Sofa und will nicht mehr aufstehen."
ENGLISH = "The dog has been sleeping on the sofa since this morning and will not get up."


def task(*demands):
    names, arguments = [name for name, _ in demands], [given for _, given in demands]
    info = {"instruction_id_list": names, "kwargs": arguments}
    return Task("t/1", (Message("user", "?"),), "", info)


# kind, arguments, texts that follow, texts that do not
WORKED = [
    ("change_case:capital_word_frequency",
     {"capital_relation": "at least", "capital_frequency": 3},
     ["NASA and I like the A-4", "DON'T. STOP. NOW."], ["NASA and I like a-4", "Nasa Is Up"]),
    ("change_case:capital_word_frequency",
     {"capital_relation": "less than", "capital_frequency": 1},
     ["none at all", "Mixed Case 42"], ["one A"]),
    ("change_case:english_capital", {},
     [ENGLISH.upper()], [ENGLISH]),
    ("change_case:english_lowercase", {},
     [ENGLISH.lower()], [ENGLISH, ENGLISH.upper(), GERMAN.lower()]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Write a Poem. "},
     ["  write a poem. Roses are red"], ["Here it is: write a poem."]),
    ("combination:two_responses", {},
     ["one\n******\ntwo", "******\none******two\n******"],
     ["one", "one******one", "one******two******three", "one************two"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2},
     ["[name] of [street]", "[[a]] and [b\n c]d [c]"], ["[name", "[a\n] [b]", "] [a] ["]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."},
     ["Bye.\n\nP.S. more", "bye p. s. more"], ["Bye.", "PS more", "P.S more"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"},
     ["Bye.\nP.P.S more", "P. P. S."], ["Bye.\nP.S. more"]),
    ("detectable_format:constrained_response", {},
     ["My answer is maybe.", "Well: My answer is no. Sorry"], ["My answer is: no.", "no"]),
    ("detectable_format:json_format", {},
     ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', "7"], ["{a: 1}", 'Here: {"a": 1}', "[" * 100_000]),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2},
     ["Section 1\nwords\nSection 2\nwords", "Section1 Section 12"],
     ["Section 1\nwords", "section 1 section 2", "Section one Section two"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2},
     ["* one\n* two", "- one\n  * two\n** bold **"],
     ["* one", "- one\n- two\n- three", "a * b - c"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2},
     ["*one* and *two*", "**one** and\n*two*"], ["*one*", "* one\n* two", "** ** *  *"]),
    ("detectable_format:title", {},
     ["<<poem of joy>>\nroses", "a <<b>> c"], ["<poem>", "<<>>", "<< >>", "<<a\nb>>", ">>a<<"]),
    ("keywords:existence", {"keywords": ["bill", "e.g."]},
     ["The BILLS, e.g. of May"], ["The bill", "e.g.", "bill eggs"]),
    ("keywords:forbidden_words", {"forbidden_words": ["can", "BC"]},
     ["scan the abc"], ["I can", "in 10 bc."]),
    ("keywords:frequency", {"keyword": "sun", "relation": "at least", "frequency": 2},
     ["Sun and sunny"], ["sun"]),
    ("keywords:frequency", {"keyword": "sun", "relation": "less than", "frequency": 2},
     ["sun", "moon"], ["sun SUN"]),
    ("keywords:letter_frequency", {"letter": "#", "let_relation": "at least", "let_frequency": 2},
     ["# a\n## b"], ["# a"]),
    ("keywords:letter_frequency", {"letter": "n", "let_relation": "less than", "let_frequency": 2},
     ["No way"], ["No, never"]),
    ("language:response_language", {"language": "de"}, [GERMAN], [ENGLISH]),
    ("length_constraints:nth_paragraph_first_word",
     {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "It"},
     ["One.\n\nIt's two.", "One.\n\n\"it, is"],
     ["It\n\nis", "One.\n\ntwo\n\nIt", "One.\n\n\n\nIt"]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2},
     ["one\n***\ntwo", "***\none *** two\n***"],
     ["one\n\ntwo", "one***two***three", "one******two"]),
    ("length_constraints:number_sentences", {"relation": "at least", "num_sentences": 3},
     ['Dr. No came. "Why?" he asked. Nobody knew', "One! Two? Three."],
     ["Dr. No came. (See e.g. it.)"]),
    ("length_constraints:number_sentences", {"relation": "less than", "num_sentences": 3},
     ["Version 1.5 is out... Really."], ["A b. C d. E f."]),
    ("length_constraints:number_words", {"relation": "at least", "num_words": 4},
     ["it's three words"], ["three words here"]),
    ("length_constraints:number_words", {"relation": "less than", "num_words": 4},
     ["three words here"], ["it's three words"]),
    ("punctuation:no_comma", {}, ["no such sign; none"], ["yes, one"]),
    ("startend:end_checker", {"end_phrase": "Is that all? "},
     ['Well. "IS THAT ALL?"', "is that all?\n"], ["Is that all? Yes"]),
    ("startend:quotation", {}, [' "all of it" '], ['"', 'not "all" of it', "'all of it'"]),
]  # fmt: skip


def test_every_kind_has_a_worked_example():
    assert {name for name, *_ in WORKED} == KINDS.keys()
    assert len(KINDS) == 25


@pytest.mark.parametrize(("name", "arguments", "good", "bad"), WORKED)
def test_a_kind_by_hand(name, arguments, good, bad):
    if name.startswith(("language", "change_case:english")) and not HAS_LANGDETECT:
        pytest.skip("needs jaxevo[ifeval]")
    for text in good:
        verdict = ifeval(task((name, arguments)), text)
        assert (verdict.status, verdict.score, verdict.feedback) == ("pass", 1.0, ""), text
    for text in bad:
        verdict = ifeval(task((name, arguments)), text)
        assert (verdict.status, verdict.score) == ("fail", 0.0), text
        assert name in verdict.feedback


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("No end", 1),
        ("One. Two! Three? Four", 4),
        ("Mr. and Mrs. Doe met J. Smith at 9 a.m. in St. Ives.", 1),
        ("I met (among others) Dr. No.", 1),
        ("It was so. I. He was in Plan B.", 3),
        ("Pi is 3.14. So it is...", 2),
        ('He said "No!" and left. "Why?"', 3),
        ("1. Milk\n2. Bread\n3. Eggs", 1),
        ("1. Drink milk.\n2. Eat bread.\n3. Boil eggs.", 3),
        ("It was in 1999. Then it ended.", 2),
        ("?! ... !", 0),
        ("let x be a. Then b. is c.", 3),
    ],
)
def test_sentences(text, count):
    assert instructions.sentences(text) == count


LISTS = [json.loads(line) for line in gzip.decompress(DATA.read_bytes()).splitlines()]
TEXTS = [
    "",
    "Yes.",
    "* A, b\n\n***\n\n- [c] <<D>>\nP.S. e",
    '"My answer is no."',
    GERMAN,
    "\x00\ud800 \r",
]


@pytest.mark.parametrize("verify", [ifeval, ifeval_loose])
def test_all_lists_of_the_data_can_be_checked(verify, monkeypatch):
    if not HAS_LANGDETECT:
        monkeypatch.setattr(instructions, "language_of", lambda text: "en")
    assert len(LISTS) == 541
    scores = set()
    for record in LISTS:
        unset = {"num_words": None, "keywords": None}  # as tables with one column a name have it
        kwargs = [{**unset, **given} for given in record["kwargs"]]
        problem = Task("t", (), "", {**record, "kwargs": kwargs})
        verdicts = [verify(problem, text) for text in TEXTS]
        assert {v.status for v in verdicts} <= {"pass", "fail"}
        assert (verdicts[0].status, verdicts[0].score) == ("fail", 0.0)
        scores |= {
            (len(record["kwargs"]), round(v.score * len(record["kwargs"]), 6)) for v in verdicts
        }
    assert scores == {(count, kept) for count in (1, 2, 3) for kept in range(count + 1)}


def test_the_score_is_the_share_that_is_followed():
    words = ("length_constraints:number_words", {"relation": "at least", "num_words": 3})
    both = task(words, ("punctuation:no_comma", {}), ("startend:quotation", {}))
    verdict = ifeval(both, "one, two")
    assert (verdict.status, verdict.score) == ("fail", 0.0)
    verdict = ifeval(both, "one two three")
    assert (verdict.status, verdict.feedback) == ("fail", "Not followed: startend:quotation.")
    assert verdict.score == pytest.approx(2 / 3)
    said = ifeval(task(words, ("startend:quotation", {})), "one").feedback
    assert said == (
        "Not followed: length_constraints:number_words (relation at least, num_words 3); "
        "startend:quotation."
    )
    assert ifeval(both, '"one two three"').status == "pass"


@pytest.mark.parametrize(
    ("demand", "text"),
    [
        (("startend:quotation", {}), 'Sure, here it is:\n"all of it"'),
        (("startend:quotation", {}), '"all of it"\nCan I help you with more?'),
        (("startend:quotation", {}), 'Sure:\n"all of it"\nMore?'),
        (("startend:quotation", {}), '**"all of it"**'),
        (("startend:quotation", {}), 'Sure:\n*"all of it"*'),
        (("startend:quotation", {}), '*"all of it"*\nMore?'),
        (("startend:quotation", {}), 'Sure:\n*"all of it"*\nMore?'),
        (("detectable_format:number_bullet_lists", {"num_bullets": 1}), "* one\n* two"),
    ],
)
def test_the_loose_score_forgives_first_and_last_lines_and_bold_print(demand, text):
    assert ifeval(task(demand), text).status == "fail"
    assert ifeval_loose(task(demand), text).status == "pass"


def test_the_loose_score_may_follow_each_instruction_in_another_form():
    two = task(
        ("startend:quotation", {}), ("detectable_format:number_bullet_lists", {"num_bullets": 1})
    )
    text = '"Sure"\n* one'
    assert ifeval(two, text).score == 0.5
    assert ifeval_loose(two, text).status == "pass"
    assert ifeval_loose(two, "neither").score == 0.0


@given(
    text=st.text(alphabet=st.characters(exclude_categories=())) | st.text("*[]<>.\n \"'#-aA1,"),
    index=st.integers(0, 540),
)
@settings(max_examples=200, deadline=None)
def test_no_text_raises_and_loose_is_no_stricter(text, index):
    problem = Task("t", (), "", LISTS[index])
    strict, loose = ifeval(problem, text), ifeval_loose(problem, text)
    assert 0.0 <= strict.score <= loose.score <= 1.0
    assert (strict.status == "pass") == (strict.score == 1.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from(sorted(KINDS)) | st.sampled_from(["at least", "num_words", "relation"]),
    lambda inside: st.lists(inside, max_size=3)
    | st.dictionaries(st.text(max_size=3), inside, max_size=3),
)  # fmt: skip
FIELDS = sorted({field for kind in KINDS.values() for field in kind.needs})


@given(
    names=JSON | st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=1),
    kwargs=JSON | st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3), max_size=2),
)
@settings(max_examples=200, deadline=None)
def test_no_info_raises(names, kwargs):
    info = {"instruction_id_list": names, "kwargs": kwargs}
    assert ifeval(Task("t", (), "", info), "some text").status in ("pass", "fail", "error")


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({}, "t/1: info has no list 'instruction_id_list'"),
        ({"instruction_id_list": ["punctuation:no_comma"]}, "needs a list 'kwargs' of 1 objects"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}, {}]}, "of 1 objects"),
        ({"instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]},
         "Did you mean 'punctuation:no_comma'"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"n": 1}]}, "takes no 'n'"),
        ({"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": "sun"}]},
         "keywords is 'sun', but a list of texts is needed"),
        ({"instruction_id_list": ["length_constraints:number_words"],
          "kwargs": [{"relation": "at most", "num_words": 3}]},
         "relation is 'at most', but 'at least' or 'less than' is needed"),
        ({"instruction_id_list": ["length_constraints:number_words"],
          "kwargs": [{"relation": "at least", "num_words": None}]},
         "num_words is 'None', but a number, at least 0 is needed"),
    ],
)  # fmt: skip
def test_a_task_that_cannot_be_checked_is_an_error_in_words(info, said):
    verdict = ifeval(Task("t/1", (), "", info), "text")
    assert (verdict.status, verdict.score) == ("error", 0.0)
    assert said in verdict.feedback


def test_without_langdetect_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect.detector_factory", None)
    monkeypatch.setitem(sys.modules, "langdetect", None)
    instructions._languages.cache_clear()
    for demand in (
        ("language:response_language", {"language": "de"}),
        ("change_case:english_capital", {}),
    ):
        for text in (ENGLISH, ""):  # whatever the answer
            verdict = ifeval(task(demand), text)
            assert (verdict.status, verdict.score) == ("error", 0.0)
            assert "pip install 'jaxevo[ifeval]'" in verdict.feedback
    assert ifeval(task(("punctuation:no_comma", {})), ENGLISH).status == "pass"


@needs_langdetect
def test_a_language_is_told_alike_every_time_and_on_every_thread():
    unclear = ["ja, no, si", "a b c d", "la le", "per me", "no", "tag", "man kan"] * 20
    instructions._languages.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(instructions.language_of, unclear))
    assert found == [instructions.language_of(text) for text in unclear]
    assert found[:7] * 20 == found
    assert instructions.language_of("12 34") == ""


@needs_langdetect
def test_langdetect_of_other_code_keeps_its_seed():
    import langdetect

    before = langdetect.DetectorFactory.seed
    instructions.language_of(ENGLISH)
    assert langdetect.DetectorFactory.seed == before


def test_long_texts_take_linear_time():
    demands = [(name, arguments) for name, arguments, _, _ in WORKED
               if not name.startswith(("language", "change_case:english"))]  # fmt: skip
    start = time.perf_counter()
    for unit in (".", "e.g. ", "[", "<<", "\n", "*", "A-", "'", "[ ", "P. ", "Section "):
        ifeval_loose(task(*demands), unit * 40_000 + "x")
    assert time.perf_counter() - start < 20


def test_both_are_known_by_name():
    assert VERIFIERS["ifeval"] is ifeval
    assert VERIFIERS["ifeval_loose"] is ifeval_loose
