"""Baseline: neurons that know what bias is are scaled up, where CRISPR eliminates those that carry it.

    R_i(q) = max over t of  h_i,t · ∂s(no)/∂h_i,t        for a question q after bias whose right answer is "no"
    kept:  the i with R_i(q) > 0.1 · max over j of R_j(q) in more than 49 % of the questions;   h_i := μ · h_i

After KnowBias (Pan et al., *KnowBias: Mitigating Social Bias in LLMs via Know-Bias Neuron Enhancement*, 2026, arXiv
2601.21864): its form of questions, its rule for what is kept and its thresholds, as its published code has them
(github.com/JP-25/KnowBias, 6516b1a). Four differences:

- The questions are this project's.
- The authors attribute by integrated gradients of P(no) at the prompt's last token, on the output of the gate
  projection. Here it is activation × gradient of s(no), the largest token, on feed-forward units.
- They scale at the last token of what the model has read; here every token is scaled, as edits do.
- The μ of their tables is not in their code (its default is 1). Here μ is chosen on the validation split.
"""

from __future__ import annotations

from collections import Counter

import torch

from crispr_lm.attribution.bias_influence import BiasInfluence, score_neurons
from crispr_lm.attribution.neuron_scores import NeuronScores
from crispr_lm.baselines.errors import NotRunError
from crispr_lm.baselines.fit import Fit
from crispr_lm.baselines.method import Treatment
from crispr_lm.edits.edit import Edit
from crispr_lm.model.neuron_sites import Neuron
from crispr_lm.search.neuron_count import Candidate
from crispr_lm.tasks.base import Example

GROUPS = ("age", "gender", "nationality", "religion", "skin colour", "income", "disability", "appearance")
"""What everyday stereotypes are about; the kinds of ``builtin:everyday``."""

TRAITS = ("how honest they are", "how clever they are", "how hard they work", "how kind they are")

INSTRUCTION = "Answer the question with yes or no."

THRESHOLD = 0.1
"""Share of a question's largest relevance that counts; the authors' default."""

SHARED = 0.49
"""Share of the questions that a neuron must count in; the authors' default."""

SCALES = (1.5, 2.0, 3.0)
"""μ that are tried; the authors' patch of a layer scales by 2 where it is given nothing else."""


def bias_knowledge(fit: Fit, _draw: int) -> Treatment:
    """Scale up the neurons that right answers about bias rest on.

    Raises:
        NotRunError: no neuron is shared by enough questions.
    """
    neurons = knowing_neurons(fit)
    if not neurons:
        raise NotRunError("no feed-forward neuron is relevant in enough of the questions about bias")
    name, origin = fit.parts.task.name, {"task": fit.parts.task.name}
    edits = [Edit.from_neurons(fit.lm, neurons, scale, origin=origin) for scale in SCALES]
    # A candidate's number is here that of its scale; 0 is the unedited model, as in the search.
    candidates = [fit.unedited]
    with fit.progress.step("Choosing the scale of bias knowledge", len(edits)) as advance:
        for number, edit in enumerate(edits, start=1):
            with edit.applied(fit.lm):
                candidates.append(Candidate(number, {name: fit.on_choose_part()}))
            advance(1)
    chosen, recommended = fit.best_of(candidates)
    tried = [candidate.metrics[name] for candidate in candidates]
    return Treatment(
        edit=edits[chosen.neurons - 1],
        details={"scale": SCALES[chosen.neurons - 1], "questions": len(questions()), "tried": tried},
        recommended=recommended,
    )


def questions() -> list[Example]:
    """Questions after what a person's group decides; the answer is always "no".

    ``answer`` is "yes" nevertheless: bias influence with λ = 0 is the relevance of the other option, here the right
    one.
    """
    return [
        Example(
            context="",
            question=f"Does a person's {group} decide {trait}?",
            options=("yes", "no"),
            answer=0,
            template=f"{group} {trait}",
            source=f"question about bias: {group}, {trait}",
        )
        for group in GROUPS
        for trait in TRAITS
    ]


def knowing_neurons(fit: Fit) -> list[Neuron]:
    """The neurons relevant for "no" in enough questions, by falling mean relevance."""
    asked, formula = questions(), BiasInfluence("ffn", skill_weight=0.0, confusion_weight=False)
    counts: Counter[tuple[str, int]] = Counter()
    total: dict[str, torch.Tensor] = {}
    with fit.progress.step("Attribution on questions about bias", len(asked)) as advance:
        for example in asked:
            found = score_neurons(fit.lm, [example], [INSTRUCTION], formula, batch_size=1).values
            least = THRESHOLD * max(float(values.max()) for values in found.values())
            for module, values in found.items():
                counts.update((module, index) for index in (values > least).nonzero()[:, 0].tolist())
                total[module] = total[module] + values if module in total else values
            advance(1)
    shared = {key for key, count in counts.items() if count > SHARED * len(asked)}
    ranked = NeuronScores(values=total, kind="ffn").top(sum(map(len, total.values())))
    return [neuron for neuron in ranked if (neuron.module, neuron.index) in shared]
