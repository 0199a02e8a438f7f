"""The page in Gradio: what stands where, and what is asked of the session when somebody turns a knob.

Text of models and data is shown in text boxes, tables and escaped figures only, never as Markdown or HTML.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported: it asks the network otherwise

import gradio as gr

from crispr_lm.app import figures
from crispr_lm.app.session import Question, Session
from crispr_lm.errors import CrisprError
from crispr_lm.inference.streaming import Decoding
from crispr_lm.report.changed import changed_answers, spread
from crispr_lm.report.summary import headline, six_lines
from crispr_lm.report.words import escaped_markdown

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "sans-serif")
THEME = gr.themes.Soft(font=list(SYSTEM_FONTS), font_mono=["ui-monospace", "Menlo", "monospace"]).set(
    # The theme's own are too pale to be read with ease.
    block_title_text_color="*primary_700",
    body_text_color_subdued="*neutral_500",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_hover_dark="*primary_700",
)
STYLE = """
#changed-table *, #fired-table *, #figures-table * { font-family: system-ui, sans-serif !important; }
footer { display: none !important; }
.js-plotly-plot :is(.xtick, .ytick, .legend, .bars, .annotation) text { fill: var(--body-text-color) !important; }
button[role="tab"].selected { color: var(--block-title-text-color); }
"""
"""A figure is drawn without knowing whether the page is light or dark; its text takes the page's colour. The footer is
Gradio's: its links are too pale to be read, and so is its colour of the selected tab."""
ENTER_SENDS = """() => ["keydown", "keypress"].forEach((kind) => document.addEventListener(kind, (event) => {
  const box = event.target.closest("#ask-prompt, #fired-prompt");
  if (!box || event.key !== "Enter" || event.isComposing) { return; }
  event.stopPropagation();
  if (event.shiftKey) { return; }
  event.preventDefault();
  document.getElementById(box.id.replace("-prompt", "-button")).click();
}, true))"""
"""In boxes of several lines Gradio sends with Shift and Enter only, where everybody expects a new line."""
FIRST_PROMPT = "The nurse and the engineer had a talk about the broken machine. Tell how it went."
ANY = "all"
MOST_ROWS = 600
"""Changed answers in the table; the report has more."""
WHOLE = "whole edit"
CHANGES = {"worse": "worse", "better": "better", "other": "neither"}
WHAT_CHANGED = ("#", "change", "condition", "category", "question", "right answer", "before", "after")

# One request at a time runs the model, in the order they came.
ON_MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
AT_ONCE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


def reported(work: Callable[..., Any]) -> Callable[..., Any]:
    """Show a mistake of the user as one sentence."""

    @wraps(work)
    def wrapped(*arguments: Any) -> Any:
        try:
            return work(*arguments)
        except CrisprError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    return wrapped


def build(session: Session) -> gr.Blocks:
    """The whole page."""
    count = len(session.edit.neurons)
    with gr.Blocks(title="crispr-lm: try the edit", analytics_enabled=False, fill_width=False) as page:
        gr.Markdown(
            f"## {escaped_markdown(session.lm.name)}, with and without {count} neuron{'' if count == 1 else 's'}"
        )
        gr.Markdown(escaped_markdown(headline(session.results)))
        with gr.Tabs():
            with gr.Tab("Ask both", id="ask"):
                _ask_both(session)
            with gr.Tab("Neurons slider", id="slider"):
                _slider(session, page)
            with gr.Tab("Changed answers", id="changed"):
                _changed(session, page)
            with gr.Tab("Which neurons fired", id="fired"):
                _fired(session)
            with gr.Tab("Figures", id="figures"):
                _first_figures(session)
    return page


def _first_figures(session: Session) -> None:
    gr.Markdown("What the run measured on held-out questions; report.html in its folder has all figures.")
    rows = [
        [
            line.what,
            line.value_text(line.before),
            line.value_text(line.after),
            line.change_text + (f" ({line.interval_text})" if line.interval_text else ""),
            line.mark or "",
        ]
        for line in six_lines(session.results)
    ]
    gr.Dataframe(
        rows,
        headers=["figure", "before", "after", "change (95 % interval)", "mark"],
        datatype="str",
        interactive=False,
        wrap=True,
        elem_id="figures-table",
    )


def _question_choices(session: Session) -> list[tuple[str, int]]:
    return [(f"{n + 1}. {figures.shortened(q.label, 150)}", n) for n, q in enumerate(session.questions)]


def _prompt_box(session: Session, name: str) -> gr.Textbox:
    """A prompt to write, or to take from the run's questions."""
    first = session.most_changed
    text = FIRST_PROMPT if first is None else session.prompt(session.questions[first])
    how = "Enter sends, Shift and Enter begin a new line"
    prompt = gr.Textbox(text, label="Prompt", info=how, lines=4, max_lines=12, elem_id=f"{name}-prompt")
    choice = gr.Dropdown(
        _question_choices(session), value=first, label="or a question of the run", elem_id=f"{name}-question"
    )
    choice.input(lambda index: session.prompt(session.questions[index]), choice, prompt, **AT_ONCE)
    return prompt


def _ask_both(session: Session) -> None:
    gr.Markdown("Write a prompt; both models answer it at the same time, word by word.")
    prompt = _prompt_box(session, "ask")
    with gr.Row():
        ask = gr.Button("Ask both", variant="primary", elem_id="ask-button")
        stop = gr.Button("Stop", elem_id="stop-button")
    with gr.Row():
        original = gr.Textbox(label="Original", lines=8, interactive=False, elem_id="original", buttons=["copy"])
        edited = gr.Textbox(label="Edited", lines=8, interactive=False, elem_id="edited", buttons=["copy"])
    with gr.Accordion("How answers are written", open=False), gr.Row():
        tokens = gr.Slider(1, 500, 80, step=1, label="Most tokens of an answer")
        temperature = gr.Slider(0, 2, 0, step=0.1, label="Temperature (0: the likeliest words)")
        seed = gr.Number(0, label="Seed of the draws", precision=0, minimum=0)

    def answer(text: str, tokens: float, temperature: float, seed: float) -> Iterator[tuple[str, str]]:
        try:
            yield from session.ask_both(text, Decoding(int(tokens), float(temperature), int(seed or 0)))
        except CrisprError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    given, shown = [prompt, tokens, temperature, seed], [original, edited]
    asked = ask.click(answer, given, shown, show_progress="minimal", **ON_MODEL)
    stop.click(None, cancels=[asked], **AT_ONCE)


def _slider(session: Session, page: gr.Blocks) -> None:
    count = len(session.edit.neurons)
    done = "eliminated" if session.edit.scale == 0 else "damped"
    gr.Markdown(
        "Choose a question, then move the slider: the edit's neurons go one after the other, in the order of their "
        "ranking, and the probabilities of the answer options follow. ✓ marks the right answer. It begins with the "
        "question that the edit helps most; others move less."
    )
    choice = gr.Dropdown(
        _question_choices(session),
        value=session.most_changed,
        label="Question of the run's test split",
        elem_id="slider-question",
    )
    with gr.Accordion("or ask one of your own", open=not session.questions):
        context = gr.Textbox(label="Context", lines=2, elem_id="own-context")
        question = gr.Textbox(label="Question", elem_id="own-question")
        options = gr.Textbox(label="Answer options, one per line", lines=3, elem_id="own-options")
        use = gr.Button("Use this question", elem_id="own-use")
    asked = gr.Textbox(label="What is asked", interactive=False, lines=3, elem_id="slider-asked")
    number = gr.Slider(
        0, max(1, count), count, step=1, label=f"Neurons {done}, of {count}", interactive=count > 0, elem_id="neurons"
    )
    nothing = figures.placeholder("No question is chosen.")
    plot = gr.Plot(nothing, show_label=False, label="Probabilities of the options", elem_id="probabilities")
    last = gr.Textbox(label="The last of them", interactive=False, elem_id="last-neuron")
    own = gr.State(None)

    def show(index: int | None, own: Question | None, number: float) -> tuple[str, Any, str]:
        chosen = own or (session.questions[index] if index is not None else None)
        if chosen is None:
            return "", nothing, ""
        removed = min(int(number), count)
        names = list(chosen.example.options)
        figure = figures.options(
            names,
            session.probabilities(chosen, 0),
            session.probabilities(chosen, removed),
            None if own else chosen.example.answer,
            f"{removed} neuron{'' if removed == 1 else 's'} {done}",
        )
        text = "\n".join(part for part in (chosen.example.context, chosen.example.question) if part)
        return text, figure, _neuron_line(session, removed)

    def take(context: str, question: str, options: str) -> Question:
        return session.own_question(context, question, options.split("\n"))

    inputs, outputs = [choice, own, number], [asked, plot, last]
    show = reported(show)
    choice.input(lambda: None, None, own, **AT_ONCE).then(show, inputs, outputs, **ON_MODEL)
    use.click(reported(take), [context, question, options], own, **AT_ONCE).success(show, inputs, outputs, **ON_MODEL)
    number.change(show, inputs, outputs, trigger_mode="always_last", show_progress="hidden", **ON_MODEL)
    page.load(show, inputs, outputs, **ON_MODEL)


def _neuron_line(session: Session, removed: int) -> str:
    if removed == 0:
        return "none: this is the original model"
    promoted = session.promoted()[removed - 1]
    name = figures.neuron_name(session.edit.neurons[removed - 1])
    return f"{name}, promotes {promoted}" if promoted else name


def _changed(session: Session, page: gr.Blocks) -> None:
    every = changed_answers(session.answers)
    rows = spread(every, MOST_ROWS)
    if not rows:
        gr.Markdown("The edit has changed no answer.")
        return
    most = f" ({len(rows)} of {len(every)}; all are in answers.jsonl)" if len(rows) < len(every) else ""
    gr.Markdown(
        f"The examples whose answer has changed under some instruction{most}, the worse ones first. "
        "Click a row to see it whole."
    )
    cells = _changed_cells(rows)
    with gr.Row():
        change = gr.Dropdown([ANY, *CHANGES.values()], value=ANY, label="Change", elem_id="filter-change")
        condition = gr.Dropdown(_values(rows, "condition"), value=ANY, label="Condition", elem_id="filter-condition")
        category = gr.Dropdown(_values(rows, "category"), value=ANY, label="Category", elem_id="filter-category")
        words = gr.Textbox(label="Words in it", elem_id="filter-words")
    table = gr.Dataframe(
        cells,
        headers=list(WHAT_CHANGED),
        datatype="str",
        interactive=False,
        wrap=True,
        max_height=380,
        column_widths=["5%", "9%", "14%", "14%", "17%", "14%", "14%", "13%"],
        elem_id="changed-table",
    )
    asked = gr.Textbox(label="What was asked", interactive=False, lines=3, elem_id="changed-asked")
    plot = gr.Plot(show_label=False, label="Probabilities before and after", elem_id="changed-plot")

    def filtered(change: str, condition: str, category: str, words: str) -> list[list[str]]:
        return [
            cells[index]
            for index, row in enumerate(rows)
            if change in (ANY, CHANGES[row["change"]])
            and condition in (ANY, row["condition"])
            and category in (ANY, row["category"])
            and words.casefold() in " ".join([row["context"], row["question"], *row["options"]]).casefold()
        ]

    def selected(event: gr.SelectData) -> tuple[str, Any]:
        return detail(rows[int(event.row_value[0]) - 1])  # by its number: a table may be filtered and sorted

    def detail(row: dict[str, Any]) -> tuple[str, Any]:
        figure = figures.options(row["options"], row["before"], row["after"], row["answer"], WHOLE)
        return f"{row['context']}\n{row['question']}".strip(), figure

    filters = [change, condition, category, words]
    gr.on([box.change for box in filters], filtered, filters, table, **AT_ONCE)
    table.select(selected, None, [asked, plot], **AT_ONCE)
    page.load(lambda: detail(rows[0]), None, [asked, plot], **AT_ONCE)


def _values(rows: list[dict[str, Any]], name: str) -> list[str]:
    return [ANY, *sorted({row[name] for row in rows if row[name]})]


def _changed_cells(rows: list[dict[str, Any]]) -> list[list[str]]:
    def best(row: dict[str, Any], when: str) -> str:
        place = max(range(len(row["options"])), key=row[when].__getitem__)
        return f"{row['options'][place]} ({row[when][place]:.0%})"

    return [
        [
            str(number),
            CHANGES[row["change"]],
            row["condition"],
            row["category"],
            row["question"],
            row["options"][row["answer"]],
            best(row, "before"),
            best(row, "after"),
        ]
        for number, row in enumerate(rows, start=1)
    ]


def _fired(session: Session) -> None:
    if not session.edit.neurons:
        gr.Markdown("The run recommends no edit, so there are no neurons to watch.")
        return
    gr.Markdown(
        "How strongly each neuron of the edit fires on each token of a prompt, in the original model: red is positive, "
        "blue negative, each neuron beside its own strongest. Where a neuron promotes words, red raises them."
    )
    prompt = _prompt_box(session, "fired")
    look = gr.Button("Look", variant="primary", elem_id="fired-button")
    nothing = figures.placeholder("Press Look to see the activations.")
    plot = gr.Plot(nothing, show_label=False, label="Activation of each neuron on each token", elem_id="fired-map")
    table = gr.Dataframe(
        headers=["neuron", "strongest on", "activation", "mean |activation|", "promotes"],
        datatype="str",
        interactive=False,
        wrap=True,
        column_widths=["26%", "14%", "10%", "12%", "38%"],
        elem_id="fired-table",
    )

    def fire(text: str) -> tuple[Any, list[list[str]]]:
        found = session.firing(text)
        rows = []
        for neuron, values, promoted in zip(found.neurons, found.values, session.promoted(), strict=True):
            sizes = values.abs().nan_to_num(nan=-1.0)
            strongest = int(sizes.argmax())
            seen = values[values.isfinite()]
            rows.append(
                [
                    figures.neuron_name(neuron),
                    repr(found.tokens[strongest]) if len(seen) else "",
                    f"{float(values[strongest]):+.3f}" if len(seen) else "",
                    f"{float(seen.abs().mean()):.3f}" if len(seen) else "",
                    promoted,
                ]
            )
        return figures.heat_map(found), rows

    look.click(reported(fire), prompt, [plot, table], **ON_MODEL)
