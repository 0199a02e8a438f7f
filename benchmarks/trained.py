"""What training reaches where elimination is limited: a LoRA adapter, fitted and told on the same parts.

    python benchmarks/trained.py builtin:smollm2 ../shared/data/bbq/Age.jsonl --epochs 3

Elimination may only switch neurons off; training may change every linear layer. The distance between the two, on
templates that neither has seen, is what elimination can't do on this model; what training can't do either is beyond the
model and these examples. Needs the extra `lora`.
"""

from __future__ import annotations

import argparse
import random
import time

import torch
from peft import LoraConfig, get_peft_model

from crispr_lm import load_model, load_task
from crispr_lm.metrics.question_answering import question_answering_metrics
from crispr_lm.model.load import LanguageModel
from crispr_lm.scoring import pack, packed_scores, prompt_scores
from crispr_lm.search import ChoosePart, choose_part
from crispr_lm.tasks import sample

FIGURES = ("accuracy_ambiguous", "accuracy_disambiguated", "unknown_rate_disambiguated", "abstention_gap")


def told(lm: LanguageModel, part: ChoosePart) -> str:
    """The figures of a part as cells of a table."""
    answers = prompt_scores(lm, part.prompts).argmax(dim=1).tolist()
    metrics = question_answering_metrics(part.examples, answers)
    return " | ".join(f"{metrics[name]:.3f}" for name in FIGURES)


def main() -> None:
    """Train, and tell after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    for name, default in (
        ("fit", 96), ("choose", 64), ("report", 120), ("epochs", 3), ("batch", 8), ("rank", 8), ("seed", 0),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=3e-4)
    given = parser.parse_args()
    lm = load_model(given.model, device="cpu")
    task = load_task(f"bbq:{given.data}")
    split = task.split(given.seed)
    fit, choose, report = (
        choose_part(lm, task.name, sample(part, size, given.seed), task.instructions, given.seed)
        for part, size in ((split.fit, given.fit), (split.choose, given.choose), (split.report, given.report))
    )
    print(f"| | part | {' | '.join(FIGURES)} |\n| --- | --- |{' --- |' * len(FIGURES)}")

    def tell(when: str) -> None:
        for name, part in (("choose", choose), ("report", report)):
            print(f"| {when} | {name} | {told(lm, part)} |", flush=True)

    tell("before")
    torch.manual_seed(given.seed)
    config = LoraConfig(r=given.rank, lora_alpha=2 * given.rank, target_modules="all-linear")
    trained = get_peft_model(lm.model, config)
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=given.rate)
    order = list(range(len(fit.examples)))
    generator = random.Random(given.seed)
    for epoch in range(given.epochs):
        start = time.perf_counter()
        generator.shuffle(order)
        for first in range(0, len(order), given.batch):
            batch = order[first : first + given.batch]
            prompts = [fit.prompts[index] for index in batch]
            scores = packed_scores(lm, pack(lm, prompts)).split([len(prompt.option_ids) for prompt in prompts])
            losses = [
                -row.log_softmax(dim=0)[fit.examples[index].answer] for row, index in zip(scores, batch, strict=True)
            ]
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
        tell(f"epoch {epoch + 1} ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
