from jaxevo.tasks import arithmetic, plain
from jaxevo.tasks.proposer import read_question, variation_task, with_question
from jaxevo.types import Message, Task

CHAT = Task("t", (Message("system", "Be brief."), Message("user", "What is 7+8?")), "fifteen")


def test_the_prompt_shows_the_reference_and_its_answer_to_nobody():
    reference = plain(arithmetic("add1")).train(0)
    task = variation_task(reference, chat=False)
    question = reference.messages[-1].content
    assert task.messages == (Message("user", question + "?"),)
    assert (task.answer, task.info) == ("", {"reference": question})
    (message,) = variation_task(CHAT, chat=True).messages
    assert "Reference question:\nWhat is 7+8?\n" in message.content
    assert message.content.endswith("\\boxed{answer}.")
    assert "fifteen" not in message.content


def test_expressions_are_read_from_the_end():
    worked = {
        "6*9": "6*9=",
        "6*9=": "6*9=",
        "7+8=6-5 ": "6-5=",
        "1+2-3*44": "1+2-3*44=",
        "6*": "",
        "54": "",
        "-6": "",
        "": "",
    }
    assert {text: read_question(text, chat=False) for text in worked} == worked


def test_questions_in_words_need_tags_and_a_boxed_value():
    first, last = "<question>What is 1?</question>", "<question>\nWhat is 2?\n</question>"
    assert read_question(f"Note. {first} {last} \\boxed{{2}}", chat=True) == "What is 2?"
    assert read_question(f"{first} the answer is 2", chat=True) == ""
    assert read_question("What is 2? \\boxed{2}", chat=True) == ""
    assert read_question("<question> </question> \\boxed{2}", chat=True) == ""


def test_a_question_takes_the_references_place():
    task = with_question(CHAT, "What is 6*9?")
    assert task.messages == (Message("system", "Be brief."), Message("user", "What is 6*9?"))
    assert (task.answer, task.info) == ("", {})
    assert task.uid != with_question(CHAT, "What is 6*8?").uid
