"""Text to token ids and back: what everything else may ask of a tokenizer.

Only prompts, feedback and given answers are ever encoded. Sampled answers stay token ids; they are
decoded for verifiers and for people, and never encoded again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from jaxevo.types import Message

Template = Literal["chatml", "model", "plain"]


class Tokenizer(Protocol):
    """The interface. `chat`: the model was taught turns, so `render` can mark them.

    `pad_id` fills arrays and says nothing (it may equal an end-of-sequence id): masks come from
    sources, never from ids.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def eos_ids(self) -> tuple[int, ...]: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def chat(self) -> bool: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; no begin or end token is added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of all ids, special tokens shown; broken UTF-8 becomes U+FFFD."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """Text without special tokens: what a verifier reads."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The raw bytes that one token stands for; b"" for special tokens."""
        ...

    def render(self, messages: Sequence[Message], *, template: Template | None = None) -> list[int]:
        """Token ids of a conversation up to where the assistant's next turn begins.

        `template` None takes the tokenizer's own choice, which `with_template` sets once for a run.
        """
        ...

    def turn(self, text: str) -> list[int]:
        """Token ids of an assistant's whole turn, which follows what `render` gives.

        The text, in which special tokens are ordinary characters, and the token that ends the turn.
        """
        ...

    def with_template(self, template: Template) -> Tokenizer:
        """The same tokenizer, rendering with another template unless told otherwise."""
        ...


@dataclasses.dataclass(frozen=True)
class CharTokenizer:
    """One token per character: id 0 pads, 1 ends, then the alphabet in order.

    >>> CharTokenizer("0123456789+=").encode("1+2=")
    [3, 12, 4, 13]
    """

    alphabet: str
    pad_id: int = dataclasses.field(default=0, init=False)
    eos_ids: tuple[int, ...] = dataclasses.field(default=(1,), init=False)
    chat: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        if len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError(f"the alphabet {self.alphabet!r} repeats a character; list each once.")

    @property
    def vocab_size(self) -> int:
        return 2 + len(self.alphabet)

    def encode(self, text: str) -> list[int]:
        unknown = sorted(set(text) - set(self.alphabet))
        if unknown:
            raise ValueError(
                f"the text {text[:40]!r} has {unknown[0]!r}, but the alphabet is "
                f"{self.alphabet!r}. Keep to it, or build the tokenizer with a larger one."
            )
        return [2 + self.alphabet.index(character) for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        names = ("<pad>", "<eos>", *self.alphabet)
        return "".join(names[i] if 0 <= i < len(names) else "\ufffd" for i in ids)

    def text(self, ids: Sequence[int]) -> str:
        return self.decode([i for i in ids if i >= 2])

    def token_bytes(self, token_id: int) -> bytes:
        return self.text([token_id]).encode()

    def render(self, messages: Sequence[Message], *, template: Template | None = None) -> list[int]:
        """The concatenated contents, whatever the template: characters have no turn marks."""
        del template
        return self.encode("".join(message.content for message in messages))

    def turn(self, text: str) -> list[int]:
        return [*self.encode(text), self.eos_ids[0]]

    def with_template(self, template: Template) -> CharTokenizer:
        """Itself: characters have one form."""
        del template
        return self


@dataclasses.dataclass(frozen=True, eq=False)
class HFTokenizer:
    """A byte-level tokenizer of a Hugging Face directory, without importing transformers.

    `backend` is a `tokenizers.Tokenizer`; `literal` is the same one reading special tokens in a
    text as ordinary characters, so that the content of a turn cannot forge the end of the turn.
    `chat_template` is Jinja source, `named_tokens` the variables it may use (bos_token, ...).
    `template` is what `render` uses unless told otherwise.
    """

    backend: Any
    literal: Any
    eos_ids: tuple[int, ...]
    pad_id: int
    chat_template: str | None
    named_tokens: Mapping[str, str]
    template: Template = "chatml"

    @classmethod
    def load(cls, path: str | Path) -> HFTokenizer:
        """Reads tokenizer.json and the configs beside it.

        Without a tokenizer.json, transformers converts what there is (seconds instead of tenths).

        Raises:
          ValueError: when no end-of-sequence id is to be found.
        """
        path = Path(path)
        config = _read_json(path / "tokenizer_config.json")
        named = {
            name: value if isinstance(value, str) else value["content"]
            for name, value in config.items()
            if name.endswith("_token") and isinstance(value, (str, dict))
        }
        backend = _backend(path)
        literal = type(backend).from_str(backend.to_str())
        literal.encode_special_tokens = True
        ids = {**_read_json(path / "config.json"), **_read_json(path / "generation_config.json")}
        eos, pad = ids.get("eos_token_id"), ids.get("pad_token_id")
        if eos is None and "eos_token" in named:
            eos = backend.token_to_id(named["eos_token"])
        if eos is None:
            raise ValueError(
                f"no end-of-sequence token in {path}: set eos_token_id in generation_config.json."
            )
        eos_ids = (eos,) if isinstance(eos, int) else tuple(eos)
        if pad is None and "pad_token" in named:
            pad = backend.token_to_id(named["pad_token"])
        pad_id = eos_ids[0] if pad is None else pad
        return cls(backend, literal, eos_ids, pad_id, _chat_template(path, config), named)

    @property
    def vocab_size(self) -> int:
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def chat(self) -> bool:
        return self.chat_template is not None or self._turn_marks is not None

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def text(self, ids: Sequence[int]) -> str:
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def token_bytes(self, token_id: int) -> bytes:
        added = self._added.get(token_id)
        if added is not None:
            return b"" if added.special else added.content.encode()
        token = self.backend.id_to_token(token_id)
        if token is None:  # rows that pad the embedding have no token
            return b""
        return bytes(_BYTE_OF[character] for character in token)

    def with_template(self, template: Template) -> HFTokenizer:
        """The same tokenizer, rendering with another template unless told otherwise."""
        return dataclasses.replace(self, template=template)

    def render(self, messages: Sequence[Message], *, template: Template | None = None) -> list[int]:
        """Token ids of a conversation and of the assistant's generation prompt.

        Args:
          messages: the turns.
          template: "chatml": bare `<|im_start|>role\\n...<|im_end|>\\n` turns, no default system
            turn. "model": the tokenizer's own chat template, which may insert one. "plain": the
            contents one after the other, for base models. None: `self.template`.

        Raises:
          ValueError: when the tokenizer lacks ChatML's special tokens, or a chat template.
        """
        template = template or self.template
        if template == "plain":
            return self.encode("".join(message.content for message in messages))
        if template == "model":
            return self.encode(self._from_template(messages))
        if self._turn_marks is None:
            raise ValueError(
                "this tokenizer has no <|im_start|> and <|im_end|> tokens, so chatml turns cannot "
                'be marked. Use template="model" or template="plain".'
            )
        start, end = self._turn_marks
        ids: list[int] = []
        for message in messages:
            turn = self._literally(f"{message.role}\n{message.content}")
            ids += [start, *turn, end, *self._literally("\n")]
        return [*ids, start, *self._literally("assistant\n")]

    def turn(self, text: str) -> list[int]:
        return [*self._literally(text), self._turn_end]

    @functools.cached_property
    def _turn_end(self) -> int:
        """What ends an assistant's turn: of several end tokens, the one of the template."""
        if self.template == "model":
            said = (Message("user", "?"), Message("assistant", "!"))
            ids = self.encode(self._from_template(said, prompted=False))
        else:
            ids = [] if self.template == "plain" else list(self._turn_marks or ())
        return next((i for i in reversed(ids) if i in self.eos_ids), self.eos_ids[0])

    def _literally(self, text: str) -> list[int]:
        return self.literal.encode(text, add_special_tokens=False).ids

    def _from_template(self, messages: Sequence[Message], *, prompted: bool = True) -> str:
        if self.chat_template is None:
            raise ValueError(
                'this tokenizer has no chat template. Use template="chatml" or template="plain".'
            )
        turns = [dataclasses.asdict(message) for message in messages]
        return self._compiled.render(
            messages=turns, add_generation_prompt=prompted, **self.named_tokens
        )

    @functools.cached_property
    def _compiled(self) -> Any:
        return _compile(self.chat_template or "")

    @functools.cached_property
    def _added(self) -> dict[int, Any]:
        return self.backend.get_added_tokens_decoder()

    @functools.cached_property
    def _turn_marks(self) -> tuple[int, int] | None:
        start = self.backend.token_to_id("<|im_start|>")
        end = self.backend.token_to_id("<|im_end|>")
        return None if start is None or end is None else (start, end)


# ---------------------------------------------------------------------------- reading
def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _backend(path: Path) -> Any:
    if (path / "tokenizer.json").is_file():
        from tokenizers import Tokenizer as Backend

        backend = Backend.from_file(str(path / "tokenizer.json"))
    else:
        from transformers import AutoTokenizer

        backend = AutoTokenizer.from_pretrained(path, use_fast=True).backend_tokenizer
    if "ByteLevel" not in str(json.loads(backend.to_str())["decoder"]):
        raise ValueError(
            f"the tokenizer in {path} is not byte-level BPE, so the bytes of its tokens are not "
            "known. Use a model with a byte-level tokenizer (Llama 3, SmolLM, Qwen, GPT-2, ...)."
        )
    backend.no_padding()
    backend.no_truncation()
    return backend


def _chat_template(path: Path, config: Mapping[str, Any]) -> str | None:
    own_file = path / "chat_template.jinja"
    if own_file.is_file():
        return own_file.read_text("utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates
        return {entry["name"]: entry["template"] for entry in template}.get("default")
    return template


def _compile(source: str) -> Any:
    """The Jinja environment that chat templates are written for, as transformers sets it up."""
    import datetime

    import jinja2.sandbox

    def refuse(reason: str) -> None:
        raise ValueError(f"the chat template refuses this conversation: {reason}")

    def to_json(value: Any, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    def now(pattern: str) -> str:
        return datetime.datetime.now().strftime(pattern)

    # `generation` blocks mark assistant text for masks made by transformers; here they do nothing.
    source = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", source)
    source = re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", source)
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals.update(raise_exception=refuse, strftime_now=now)
    return environment.from_string(source)


def _printable_bytes() -> dict[str, int]:
    """GPT-2's table, inverted: the printable character that stands for each byte -> the byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + n): byte for n, byte in enumerate(hidden)}


_BYTE_OF = _printable_bytes()
