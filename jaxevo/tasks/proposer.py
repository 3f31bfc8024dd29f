"""Questions written by a model: how one is asked for, read, and put into the form of a task.

Models of characters write an expression such as `6*9` after `7+8=?`. Chat models are shown a
reference question in words, and write theirs between tags.
"""

from __future__ import annotations

import dataclasses
import re

from jaxevo.types import Message, Task

_EXPRESSION = re.compile(r"\d+(?:[-+*]\d+)+")
_TAGGED = re.compile(r"<question>(.*?)</question>", re.DOTALL)

CHAT = """\
Write one new question that teaches what this reference question needs, and that differs from it.

Reference question:
{reference}

1. Name the decisive step of the reference. Keep what it teaches, but change the object, the \
setting or the kind of constraint; new names or a new story are not enough.
2. Do not write down the decisive identity of the reference in another form.
3. Say how complex your question is: its number of cases, steps or degrees of freedom.
4. Ask for one thing only, whose answer is a single number. If you cannot, change your strategy.

Three examples:
Reference: What is the sum of the first 20 odd numbers?
Variation: Each of 12 rows has two seats more than the row before it, and the first row has 3 \
seats. How many seats are there?
Reference: How many two-digit numbers have digits that add up to 9?
Variation: How many ways are there to put 7 equal balls into 3 boxes if no box may stay empty?
Reference: A rectangle has perimeter 20 and area 24. How long is its diagonal?
Variation: Two numbers have product 15, and their squares add up to 34. What is the square of \
their sum?

First write a short design note. Then write your question between <question> and </question>. \
Then, on the last line, write its answer as \\boxed{{answer}}."""


def variation_task(reference: Task, *, chat: bool) -> Task:
    """The task of writing a question after a reference, whose last message is its question.

    Its `info["reference"]` is the reference's question.
    """
    question = reference.messages[-1].content
    prompt = CHAT.format(reference=question) if chat else f"{question}?"
    uid, info = f"variation/{reference.uid}", {"reference": question}
    return Task(uid, (Message("user", prompt),), "", info)


def read_question(text: str, *, chat: bool) -> str:
    """The last question of an answer to `variation_task`; empty when there is none.

    Chat: between the last pair of tags, if the answer also holds a boxed value, which is a matter
    of form: nobody reads it. Otherwise: the last expression and an equals sign.

    >>> read_question("7+8 6*9", chat=False)
    '6*9='
    """
    if not chat:
        found = _EXPRESSION.findall(text)
        return f"{found[-1]}=" if found else ""
    found = _TAGGED.findall(text)
    return found[-1].strip() if found and re.search(r"\\boxed\{.*?\}", text, re.DOTALL) else ""


def with_question(reference: Task, question: str) -> Task:
    """The reference's messages with another question at the end; nobody knows the answer."""
    last = dataclasses.replace(reference.messages[-1], content=question)
    return Task(f"written/{question}", (*reference.messages[:-1], last), "")
