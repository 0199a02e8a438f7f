"""Where an answer stands in a model's chat template: derived from the template, never assumed.

A chat template turns a conversation into the text that the model reads. It says in two ways what stands in front of an
answer: by the generation prompt, and by how it writes a finished conversation. In many templates the two differ: a
space or a line break belongs to the answer, a channel is named in the finished conversation alone, or the generation
prompt opens a block of reasoning. An option scored at the wrong place gives a wrong number and no error.

So a marker is rendered as the answer to a probe, and what the template writes between the user's words and the marker
is compared with the generation prompt. Knows tokenizers and templates; knows no weights, tasks or metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import jinja2

from crispr_lm.errors import InputError

TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
    MemoryError,
)
"""What a chat template, a small program that comes with the model, can raise."""

PROBE = "Who waited at the harbour?\nYour answer:"
"""The user's words that a template is tried with: of two lines, and ending as prompts do."""

FROZEN_CLOCK = (
    "{% macro strftime_now(form) %}"
    "{% if form not in frozen_dates %}"
    "{{ raise_exception('it puts the format of a date together: ' ~ form) }}"
    "{% endif %}"
    "{{ frozen_dates[form] }}{% endmacro %}{{ '' }}"
)
"""Put in front of a template that asks for the date; a format that is no string in the template is an error."""

MARKER = "a quinotaur, 7 of them"
"""Stands for an answer. Words as answers have them: a template that capitalises or splits an answer is found out."""

THOUGHT = "Xylophagist"
"""Stands for an answer's reasoning, likewise."""

OFF_BY_DEFAULT = {"enable_thinking": False, "thinking": False, "reasoning": False}
"""Variables by which templates switch reasoning off. Set wherever a template reads them, also where it would not open
a block: some say in the system turn alone that the model shall reason."""

OFF_BY_NAME: dict[str, tuple[Any, ...]] = {
    "thinking_mode": ("disabled", "off"),
    "thinking_option": ("off",),
    "reasoning_effort": ("none", "no_think"),
    "thinking_budget": (0,),
    "skip_thinking": (True,),
    "skip_think": (True,),
    "think_render_option": ("off",),
}
"""Variables that mean more than on and off: set only where a block stays open without them."""

OFF_IN_TEXT = ("/no_think", "/nothink")
"""Words in a system turn, or behind the user's, that templates take for the switch."""

_TAG = re.compile(
    r"<[^<>\s]*(?:think|thought|reason)[^<>]*>|\[/?[^][\s]*(?:think|thought)[^][\s]*\]"
    r"|<\|channel\|?>\s*(?:analysis|thought)|<channel\|>|<\|end\|>",
    re.IGNORECASE,
)
"""What opens or closes a block of reasoning in the families that are known; `_before_thought` finds unknown ones."""

_CLOSING = re.compile(r"^[<\[][|｜]?(?:/|end)|[_-]end\b|_off\b|no_?think|^<channel\|>", re.IGNORECASE)
"""Which of them close it, or say that there is none."""


@dataclass(frozen=True)
class AnswerPlace:
    """How a chat template frames the user's words and an answer.

    Attributes:
        before: What stands between the user's words and the answer's own tokens.
        lead: White space in front of an answer that belongs to its tokens.
        from_conversation: Whether `before` is taken from a finished conversation; else it is the generation prompt.
        in_parts: Whether a turn's content is a list of parts; else it is a string.
        variables: What the template is given to switch reasoning off.
        system: A system turn that switches it off; empty for none.
        suffix: What is put behind the user's words to switch it off.
        how: How the place was derived, as a sentence for people.
    """

    before: str = ""
    lead: str = ""
    from_conversation: bool = False
    in_parts: bool = False
    variables: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    suffix: str = ""
    how: str = ""


_places: WeakKeyDictionary[Any, dict[tuple[Any, ...], AnswerPlace | InputError]] = WeakKeyDictionary()
"""Places already derived, by tokenizer and by all that they depend on."""


def find_answer_place(tokenizer: Any, name: str, moment: datetime, *, encoder_decoder: bool = False) -> AnswerPlace:
    """Derive where answers stand in a tokenizer's chat template. Derived once, then remembered.

    Args:
        tokenizer: With a chat template.
        name: The model's, for errors.
        moment: What a template that writes the date takes for now.
        encoder_decoder: Whether the template's text goes to an encoder, and the answer stands by itself.

    Raises:
        InputError: the template fails, leaves out the user's words or the answer, or puts every answer into an open
            block of reasoning.
    """
    key = (template_of(tokenizer, name), encoder_decoder, name)
    known = _places.setdefault(tokenizer, {})
    if key not in known:
        try:
            known[key] = _derive(tokenizer, name, moment, encoder_decoder=encoder_decoder)
        except InputError as error:
            known[key] = error
    found = known[key]
    if isinstance(found, InputError):
        raise InputError(str(found))
    return found


def template_of(tokenizer: Any, name: str) -> str:
    """Return the chat template that prompts go through, the default one where there are several.

    Raises:
        InputError: there are several, and none is the default.
    """
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise InputError(f"model {name}: it has several chat templates and none is called default; add one") from error


def depends_on_date(template: str) -> bool:
    """Whether a chat template asks what time it is."""
    return "strftime_now" in template


def render(
    tokenizer: Any, turns: Sequence[str], place: AnswerPlace, moment: datetime, *, answer: str | None = None
) -> str:
    """Render a conversation.

    Args:
        tokenizer: With a chat template.
        turns: The user's and the model's words in turn, the user's first and last.
        place: Form of the content, variables and switches; where the answer stands is not looked at.
        moment: What a template that writes the date takes for now.
        answer: The answer to the last turn; None for the generation prompt in its place.

    Raises:
        TEMPLATE_ERRORS: whatever the template raises.
    """
    messages = _asking(turns, place)
    if answer is not None:
        messages.append(_message("assistant", answer, place))
    return _rendered(tokenizer, messages, place, moment, generation_prompt=answer is None)


def render_before_answer(tokenizer: Any, turns: Sequence[str], place: AnswerPlace, moment: datetime) -> str:
    """Render a conversation up to the answer's own tokens, white space before them left out.

    Raises:
        TEMPLATE_ERRORS: whatever the template raises.
    """
    if place.from_conversation:
        marker = MARKER
        while any(marker in turn for turn in turns):
            marker += "!"
        text = render(tokenizer, turns, place, moment, answer=marker)
        return text[: text.rindex(marker)].removesuffix(place.lead)
    text = render(tokenizer, turns, place, moment)
    return _without_spaces(text) if place.lead else text


def _asking(turns: Sequence[str], place: AnswerPlace) -> list[dict[str, Any]]:
    """A conversation up to the user's last words, with what switches reasoning off."""
    words = [*turns[:-1], turns[-1] + place.suffix]
    messages = [_message(("user", "assistant")[index % 2], text, place) for index, text in enumerate(words)]
    return [_message("system", place.system, place), *messages] if place.system else messages


def _message(role: str, text: str, place: AnswerPlace) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}] if place.in_parts else text}


def _rendered(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    place: AnswerPlace,
    moment: datetime,
    *,
    generation_prompt: bool,
) -> str:
    template = tokenizer.get_chat_template()
    more: dict[str, Any] = {}
    if depends_on_date(template):
        # transformers gives templates a clock of its own, which no argument replaces; a macro of the same name does.
        more["frozen_dates"] = {form: moment.strftime(form) for form in _date_formats(template)}
        template = FROZEN_CLOCK + template
    text = tokenizer.apply_chat_template(
        list(messages),
        chat_template=template,
        tokenize=False,
        add_generation_prompt=generation_prompt,
        **place.variables,
        **more,
    )
    assert isinstance(text, str)
    return text


@cache
def _date_formats(template: str) -> tuple[str, ...]:
    """Strings of a template that may be formats of a date. Remembered: it is asked for every prompt."""
    strings = (text[1:-1] for _, kind, text in jinja2.Environment().lex(template) if kind == "string")
    return tuple(text for text in strings if "%" in text)


def _without_spaces(text: str) -> str:
    """Without spaces at the end: the first word of an answer takes them in; a line break stays."""
    return text.rstrip(" \t")


def _derive(tokenizer: Any, name: str, moment: datetime, *, encoder_decoder: bool) -> AnswerPlace:
    template = tokenizer.get_chat_template()
    failures: list[str] = []
    for in_parts in (False, True):
        for variables in (_variables(template), {}):  # some fail where reasoning is switched off
            form = AnswerPlace(in_parts=in_parts, variables=variables)
            found = _tried(tokenizer, form, moment, encoder_decoder=encoder_decoder)
            if isinstance(found, AnswerPlace):
                return found
            failures.append(found)
    raise InputError(
        f"model {name}: its chat template {failures[0]}, so what is scored would not be what the model says; "
        "give --prompt-format plain to score plain text, or another chat template"
    )


def _tried(tokenizer: Any, form: AnswerPlace, moment: datetime, *, encoder_decoder: bool) -> AnswerPlace | str:
    """The place of the answer, or what the template does that leaves none."""
    try:
        generation = render(tokenizer, [PROBE], form, moment)
        if PROBE not in generation:
            return "leaves out the user's words"
        if encoder_decoder:
            return replace(form, how="the template's text goes to the encoder; the decoder writes the answer")
        finished = render(tokenizer, [PROBE], form, moment, answer=MARKER)
    except TEMPLATE_ERRORS as error:
        return f"fails on a single user turn and its answer ({' '.join(str(error).split())})"
    if PROBE not in finished or MARKER not in _behind_words(finished):
        return "leaves out the model's answer"
    if form.in_parts and re.search(r"""["']type["']: *["']text""", finished):
        return "writes a list of parts as it is"
    if not _behind_words(finished[: finished.rindex(MARKER)]).strip() and _behind_words(generation).strip():
        return "writes an answer right behind the user's words, but not in its generation prompt"
    return _settled(tokenizer, form, moment) or (
        "puts every answer into an open block of reasoning, and no known switch closes it"
    )


def _variables(template: str) -> dict[str, Any]:
    return {name: value for name, value in OFF_BY_DEFAULT.items() if _reads(template, name)}


def _reads(template: str, name: str) -> bool:
    """Whether a template has a variable of that name, and not only a key or an attribute."""
    return re.search(rf"(?<![\w.'\"\[<|/]){name}(?![\w'\"\]>|/])", template) is not None


def _settled(tokenizer: Any, form: AnswerPlace, moment: datetime) -> AnswerPlace | None:
    """The first way of asking whose generation prompt opens no block; failing that, the first with a usable answer."""
    usable = None
    for asked in _ways(tokenizer.get_chat_template(), form):
        try:
            generation = render(tokenizer, [PROBE], asked, moment)
            finished = render(tokenizer, [PROBE], asked, moment, answer=MARKER)
        except TEMPLATE_ERRORS:
            continue
        if PROBE not in generation or PROBE not in finished or MARKER not in _behind_words(finished):
            continue
        tail, answered = _behind_words(generation), _behind_words(finished[: finished.rindex(MARKER)])
        thought = _before_thought(tokenizer, asked, moment)
        opens = _is_open(tail) or (thought == tail != answered and tail.startswith(answered))
        answer_open = _is_open(answered) or (thought == answered != tail and answered.startswith(tail))
        place = _placed(asked, tail, answered, opens, answer_open)
        if place is not None and not opens:
            return place
        usable = usable or place
    return usable


def _ways(template: str, form: AnswerPlace) -> Iterator[AnswerPlace]:
    """Ways of asking for an answer without reasoning, the plainest first."""
    yield form
    for name, values in OFF_BY_NAME.items():
        if _reads(template, name):
            for value in values:
                yield replace(form, variables={**form.variables, name: value})
    for words in OFF_IN_TEXT:
        if words in template:
            yield replace(form, system=words)
            yield replace(form, suffix=f" {words}")


def _behind_words(text: str) -> str:
    return text[text.rindex(PROBE) + len(PROBE) :]


def _before_thought(tokenizer: Any, asked: AnswerPlace, moment: datetime) -> str | None:
    """What the template writes between the user's words and an answer's reasoning; None if it shows no reasoning."""
    message = _message("assistant", MARKER, asked) | dict.fromkeys(("reasoning_content", "reasoning"), THOUGHT)
    try:
        text = _rendered(tokenizer, [*_asking([PROBE], asked), message], asked, moment, generation_prompt=False)
    except TEMPLATE_ERRORS:
        return None
    if PROBE not in text or not text.rindex(PROBE) < text.find(THOUGHT) < text.find(MARKER):
        return None
    return _behind_words(text[: text.index(THOUGHT)])


def _is_open(tail: str) -> bool:
    """Whether a text ends within a block of reasoning."""
    tags = _TAG.findall(tail)
    return bool(tags) and _CLOSING.search(tags[-1]) is None


def _placed(asked: AnswerPlace, tail: str, answered: str, opens: bool, answer_open: bool) -> AnswerPlace | None:
    """Decide between the generation prompt and the finished conversation.

    Args:
        asked: How the template was asked.
        tail: What follows the user's words in the generation prompt.
        answered: What stands between them and the answer in a finished conversation.
        opens: Whether the generation prompt ends in an open block of reasoning.
        answer_open: Whether the answer of the finished conversation stands in one.
    """
    if answer_open and opens:
        return None
    if answer_open:
        return _by_generation(asked, tail, "generation prompt; a finished conversation would leave a block open")
    if opens:
        return _by_conversation(asked, answered, "finished conversation; the generation prompt opens a block")
    if answered == tail:
        return _by_generation(asked, tail, "generation prompt, as in a finished conversation")
    rest = answered.removeprefix(tail)
    if answered.startswith(tail) and rest.isspace():
        how = "generation prompt, and white space that a finished conversation begins the answer with"
        return _by_generation(asked, tail, how, rest)
    block = tail.removeprefix(answered.rstrip())
    if block != tail and _TAG.search(block):
        return _by_generation(asked, tail, "generation prompt, which closes an empty block of reasoning")
    return _by_conversation(asked, answered, "finished conversation, which differs from the generation prompt")


def _by_generation(asked: AnswerPlace, tail: str, how: str, begins_with: str = "") -> AnswerPlace:
    before = _without_spaces(tail)
    return replace(asked, before=before, lead=tail[len(before) :] + begins_with, from_conversation=False, how=how)


def _by_conversation(asked: AnswerPlace, answered: str, how: str) -> AnswerPlace:
    before = answered.rstrip()
    return replace(asked, before=before, lead=answered[len(before) :], from_conversation=True, how=how)
