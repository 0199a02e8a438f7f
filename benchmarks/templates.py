"""Is the right text scored? Compares what the library scores with each chat template's own finished conversation.

    python benchmarks/templates.py FOLDER          # chat templates (*.jinja) and tokenizer folders, at any depth

For each template it prints a verdict and the lead: the text between the user's words and the answer. The verdicts:

- right: the tokens of prompt and option are a prefix of the tokens of a finished conversation of user and assistant,
  which the template itself renders, and the answer does not stand in an open thinking block;
- right, closed block: the same but for an empty thinking block, closed before the answer, which templates write for an
  answer without reasoning and often drop from finished conversations; or without a block that the conversation opens
  before the answer and never closes;
- refused: the library says that it can't score here, and why;
- wrong: anything else, a crash included.

The last line is `N of M right, K refused, W silently wrong`; the exit status is 1 if something is wrong.

A template file gets a small tokenizer of GPT-2's kind, which splits " man" and "man" in different ways; a tokenizer
folder is read as it is.

Knows the library's `encode` and how transformers renders templates, but not how the library finds the answer's place.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import crispr_lm
from crispr_lm.errors import InputError
from crispr_lm.inference.prompts import prompt_text
from crispr_lm.inference.reader import PromptFormat, Reader
from crispr_lm.tasks.base import Example

INSTRUCTION = "Answer the question."
EXAMPLES = (
    Example("An old man met a nurse.", "Who was late?", ("the man", "Nurse Xu, who came", "unknown"), 2, "late"),
    Example("", "Who cooks?", ("She did it", "7 of them"), 1, "cooks"),
)

VOCABULARY = 2_000
"""Tokens of the tokenizer made for a template file: the words of template and examples become tokens of their own."""

SWITCHES: tuple[dict[str, Any], ...] = (
    {"enable_thinking": False},
    {"thinking": False},
    {"reasoning": False},
    {"thinking_mode": "disabled"},
    {"thinking_mode": "off"},
    {"thinking_budget": 0},
    {"reasoning_effort": "none"},
)
"""What templates call the switch for an answer without reasoning; each is tried alone, all together, and none."""

THINKING = re.compile(r"think|thought|reason", re.IGNORECASE)
"""Marks of thinking blocks have one of these in their names, whatever brackets are around it."""

CLOSING = re.compile(r"(/|\bend_?|close\W*)(\w+:)?$", re.IGNORECASE)
"""What stands before the name in a mark that closes: </think>, </mm:think>, <|END_THINKING|>, <|close|>think<|sep|>."""

BLOCK = re.compile(
    r"<\|channel>thought\s*<channel\|>"  # closed without its name
    r"|<\|open\|>think<\|sep\|>\s*(<\|close\|>think<\|sep\|>)?"
    r"|<\|close\|>think<\|sep\|>"
    r"|[<\[]\W?(start_|end_|\w+:)?(think|thinking|thought|reason|reasoning)(:\w+)?\W?[>\]]",
    re.IGNORECASE,
)
"""A mark of a thinking block, open or close."""


@dataclass(frozen=True)
class Verdict:
    """What came out for one template.

    Attributes:
        name: The file or folder, as given.
        verdict: right, refused or wrong, with what there is to add.
        text: The lead, or why there is none.
    """

    name: str
    verdict: str
    text: str

    @property
    def kind(self) -> str:
        """The first word of the verdict."""
        return self.verdict.split(",")[0]


@dataclass(frozen=True)
class Conversation:
    """A finished conversation of user and assistant as the template renders it: up to the answer, and whole."""

    before_answer: str
    whole: str


def small_tokenizer(template: str) -> Any:
    """A tokenizer with this chat template: its merges come from the template and the examples, the rest is bytes."""
    options = [space + option for example in EXAMPLES for option in example.options for space in ("", " ")]
    texts = [template, *(prompt_text(example, INSTRUCTION) for example in EXAMPLES), *options] * 2
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learning = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, learning)
    names = {name: f"<{name}>" for name in ("unk_token", "pad_token", "cls_token", "sep_token")}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=template, **names
    )


def tokenizers_in(folder: Path) -> Iterator[tuple[str, Any]]:
    """Names and tokenizers of all template files and tokenizer folders under a folder, sorted by name."""
    found = {path for path in folder.rglob("*.jinja") if path.name != "chat_template.jinja"}
    found |= {path.parent for path in folder.rglob("tokenizer_config.json")}
    for path in sorted(found):
        if path.is_dir():
            yield str(path.relative_to(folder)), AutoTokenizer.from_pretrained(path)
        else:
            yield str(path.relative_to(folder).with_suffix("")), small_tokenizer(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class TemplateReader:
    """What encoding needs of a model, without any limit of a model's own."""

    name: str
    tokenizer: Any
    moment: datetime
    is_encoder_decoder: bool = False
    context_length: int | None = None
    embedded_tokens: int | None = None
    prompt_format: PromptFormat = "chat"


def judge(name: str, tokenizer: Any) -> Verdict:
    """Encode every example and compare each option with the template's own conversations; the worst verdict counts."""
    # The template's own conversations are rendered a moment later, on the same day.
    lm: Reader = TemplateReader(name, tokenizer, datetime.now())
    verdicts = []
    for example in EXAMPLES:
        words = prompt_text(example, INSTRUCTION)
        try:
            encoded = crispr_lm.encode(lm, example, INSTRUCTION)
        except InputError as error:
            verdicts.append(Verdict(name, "refused", str(error)))
            continue
        except Exception as error:
            verdicts.append(Verdict(name, "wrong, crash", f"{type(error).__name__}: {error}"))
            continue
        for option, option_ids in zip(example.options, encoded.option_ids, strict=True):
            verdicts.append(_judge(name, tokenizer, words, option, (encoded.prompt_ids, option_ids)))
    worst = ("wrong", "refused", "right")
    return min(verdicts, key=lambda each: (worst.index(each.kind), "," not in each.verdict))


def _judge(name: str, tokenizer: Any, words: str, option: str, ids: tuple[Sequence[int], Sequence[int]]) -> Verdict:
    """The verdict on the tokens of one prompt and one of its options."""
    bos = tokenizer.bos_token_id
    scored = [*ids[0], *ids[1]]
    text = tokenizer.decode(scored)
    place = text.rfind(words.strip())
    if place < 0:
        return Verdict(name, "wrong, user's words missing", text[-80:])
    # The first token may hold the lead's end, too: ":\n" is one token in many vocabularies.
    if not text.endswith(option) or len(tokenizer.decode(ids[1][1:]).strip()) > len(option):
        return Verdict(name, "wrong, tokens are not the option's", tokenizer.decode(ids[1]))
    if scored[:2] == [bos, bos]:
        return Verdict(name, "wrong, two beginning tokens", text[:40])
    before = text[: len(text) - len(option)]
    lead = before[place + len(words.strip()) :]
    conversations = list(_conversations(tokenizer, words, option))
    if not conversations:
        return Verdict(name, "wrong, no finished conversation holds user's words and answer", lead)
    if _is_open(lead):
        return Verdict(name, "wrong, in an open thinking block", lead)
    own = _without_beginning(scored, bos)
    for conversation in conversations:
        whole = tokenizer(conversation.whole, add_special_tokens=False).input_ids
        if _begins(tokenizer, _without_beginning(whole, bos), own):
            return Verdict(name, "right", lead)
    same_text = False
    for conversation in conversations:
        start = conversation.before_answer.rfind(words.strip()) + len(words.strip())
        theirs = conversation.before_answer[start:]
        if _closes(lead, theirs):
            running = tokenizer(conversation.before_answer[:start] + lead + option, add_special_tokens=False).input_ids
            if _without_beginning(running, bos) == own:
                return Verdict(name, "right, closed block", lead)
        same_text |= lead == theirs or _closes(lead, theirs)
    if same_text:
        return Verdict(name, "wrong, other tokens than in the conversation", lead)
    return Verdict(name, "wrong, not the template's conversation", lead)


def _conversations(tokenizer: Any, words: str, option: str) -> Iterator[Conversation]:
    """The template's renderings of the finished conversation that hold user's words and answer as they are."""
    everything = {key: value for switch in SWITCHES for key, value in switch.items()}
    for options in ({}, *SWITCHES, everything):
        for as_parts in (False, True):
            messages = [
                {"role": role, "content": [{"type": "text", "text": said}] if as_parts else said}
                for role, said in (("user", words), ("assistant", option))
            ]
            try:
                whole = tokenizer.apply_chat_template(messages, tokenize=False, **options)
            except Exception:  # templates raise anything; another way to call it may do
                continue
            user, answer = whole.rfind(words.strip()), whole.rfind(option)
            # A list that was printed instead of read holds the answer, too.
            printed = re.search(r"""['"]type['"]: ?['"]text['"]""", whole)
            if 0 <= user < answer and not printed:
                yield Conversation(whole[:answer], whole)


def _without_beginning(ids: Sequence[int], bos: int | None) -> list[int]:
    """Without the beginning token, which some templates write and some tokenizers add."""
    return list(ids[1:] if ids and ids[0] == bos else ids)


def _begins(tokenizer: Any, whole: list[int], scored: list[int]) -> bool:
    """Whether a conversation begins with these tokens; the last may have merged with what follows the answer."""
    if whole[: len(scored)] == scored:
        return True
    return whole[: len(scored) - 1] == scored[:-1] and tokenizer.decode(whole).startswith(tokenizer.decode(scored))


def _is_open(lead: str) -> bool:
    """Whether the last mark of thinking in a lead opens a block: the answer would stand in it."""
    mentions = list(THINKING.finditer(lead))
    if not mentions or CLOSING.search(lead[: mentions[-1].start()]):
        return False
    return not re.match(r"thought\s*<channel\|>", lead[mentions[-1].start() :])


def _closes(lead: str, theirs: str) -> bool:
    """Whether a lead is the conversation's, but for an empty thinking block that is closed before the answer.

    Where the conversation's own block stands open, leaving it out is the same.
    """
    marks, their_marks = list(BLOCK.finditer(lead)), list(BLOCK.finditer(theirs))
    if not marks and _is_open(theirs) and their_marks:
        return lead.rstrip() == theirs[: their_marks[0].start()].rstrip()
    if not marks or BLOCK.sub("", lead[marks[0].start() : marks[-1].end()]).strip():
        return False
    if their_marks and not _is_open(theirs):  # written in another way, <think></think> for </think>, but as closed
        return BLOCK.sub("", lead) == BLOCK.sub("", theirs)
    before, behind = lead[: marks[0].start()].rstrip(), lead[marks[-1].end() :].lstrip()
    expected = theirs[: their_marks[0].start()] if their_marks else theirs
    return re.fullmatch(re.escape(before) + r"\s*" + re.escape(behind), expected) is not None


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge a folder, print what came out, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", type=Path, help="folder with *.jinja files and tokenizer folders, at any depth")
    folder = parser.parse_args(arguments).folder
    verdicts = [judge(name, tokenizer) for name, tokenizer in tokenizers_in(folder)]
    if not verdicts:
        parser.error(f"{folder} holds no *.jinja file and no tokenizer_config.json")
    for verdict in verdicts:
        print(f"{verdict.name}: {verdict.verdict}: {verdict.text!r}")
    count = Counter(verdict.kind for verdict in verdicts)
    print(f"{count['right']} of {len(verdicts)} right, {count['refused']} refused, {count['wrong']} silently wrong")
    return 1 if count["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
