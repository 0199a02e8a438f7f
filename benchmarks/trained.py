"""What training reaches where elimination is limited: a LoRA adapter, fitted, chosen and told on the same parts.

    python benchmarks/search.py run ... --output out/Age.json
    python benchmarks/trained.py out/Age.json --epochs 4

Elimination may only switch neurons off; training may change every linear layer. The distance between the two, on
templates that neither has seen, is what elimination can't do on this model; what training can't do either is beyond the
model and these examples. Of all epochs that of the highest abstention gap on the validation split is told, as another
row of the file. Needs the extra `lora`.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

from crispr_lm.baselines import Treatment
from crispr_lm.inference.forward import packed_scores
from crispr_lm.inference.layouts import pack
from crispr_lm.inference.scoring import prompt_scores
from crispr_lm.metrics.question_answering import question_answering_metrics
from crispr_lm.model.language_model import LanguageModel
from crispr_lm.search.neuron_count import ChoosePart, validation_part
from crispr_lm.storage.files import write_json
from crispr_lm.tasks import sample
from search import Report, arguments_of, loaded
from search_page import TRAINED

FIGURES = ("accuracy_ambiguous", "accuracy_disambiguated", "unknown_rate_disambiguated", "abstention_gap")


def figures(lm: LanguageModel, part: ChoosePart) -> dict[str, float]:
    """The figures of a part, as the model now answers."""
    answers = prompt_scores(lm, part.prompts).argmax(dim=1).tolist()
    metrics = question_answering_metrics(part.examples, answers)
    return {name: metrics[name] or 0.0 for name in FIGURES}


def train_epoch(
    lm: LanguageModel, part: ChoosePart, order: list[int], batch: int, optimizer: torch.optim.AdamW
) -> None:
    """One step for every batch: cross-entropy of the right option among the options."""
    for first in range(0, len(order), batch):
        drawn = order[first : first + batch]
        prompts = [part.prompts[index] for index in drawn]
        scores = packed_scores(lm, pack(lm, prompts)).split([len(prompt.option_ids) for prompt in prompts])
        losses = [
            -row.log_softmax(dim=0)[part.examples[index].answer] for row, index in zip(scores, drawn, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()


def main() -> None:
    """Train, choose the epoch, tell it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="what `search.py run` has written")
    for name, default in (("fit", 96), ("epochs", 4), ("batch", 8), ("rank", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=3e-4)
    mine = parser.parse_args()
    content: dict[str, Any] = json.loads(mine.file.read_text(encoding="utf-8"))
    given = arguments_of(content)
    lm, task, parts = loaded(given)
    split = task.split(given.seed)
    fit, choose = (
        validation_part(lm, task.name, sample(part, size, given.seed), task.instructions, given.seed)
        for part, size in ((split.attribution, mine.fit), (split.validation, given.validation_examples))
    )
    report = Report.of(lm, parts, given)
    before, _ = report.described(Treatment())
    torch.manual_seed(given.seed)
    config = LoraConfig(r=mine.rank, lora_alpha=2 * mine.rank, target_modules="all-linear")
    trained = get_peft_model(lm.model, config)
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=mine.rate)
    order, generator = list(range(len(fit.examples))), random.Random(given.seed)
    epochs, best, start = [], {}, time.perf_counter()
    for epoch in range(1, mine.epochs + 1):
        generator.shuffle(order)
        train_epoch(lm, fit, order, mine.batch, optimizer)
        epochs.append(figures(lm, choose))
        print(f"{time.perf_counter() - start:6.0f} s  epoch {epoch}, validation split: {epochs[-1]}", flush=True)
        if epochs[-1]["abstention_gap"] >= max(of["abstention_gap"] for of in epochs):
            best = {name: weights.clone() for name, weights in get_peft_model_state_dict(trained).items()}
    set_peft_model_state_dict(trained, best)
    number = max(range(mine.epochs), key=lambda index: (epochs[index]["abstention_gap"], index))
    content["rows"][TRAINED] = report.described(Treatment(), before)[1]
    content["trained"] = {
        "epochs": epochs,
        "told": f"The adapter: rank {mine.rank} in every linear layer, {mine.fit} examples of the attribution split, "
        f"batches of {mine.batch}, rate {mine.rate:g}, epoch {number + 1} of {mine.epochs} (the highest abstention "
        f"gap on the validation split, {epochs[number]['abstention_gap']:.3f} there).",
    }
    write_json(mine.file, content)
    print(content["rows"][TRAINED]["metrics"])


if __name__ == "__main__":
    main()
