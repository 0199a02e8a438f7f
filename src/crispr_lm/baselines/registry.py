"""The methods, in the order of tables. A new method is one function and one entry here, or is registered."""

from __future__ import annotations

from crispr_lm.baselines.calibration import contextual_calibration, domain_context_calibration
from crispr_lm.baselines.enhancement import bias_knowledge
from crispr_lm.baselines.instruction import fairness_instruction
from crispr_lm.baselines.integrated_gradients import integrated_gradients
from crispr_lm.baselines.lora import lora
from crispr_lm.baselines.method import Method
from crispr_lm.baselines.minimal_pairs import minimal_pairs
from crispr_lm.baselines.published_ranking import (
    golden_section_on_accuracy,
    highest_bias_influence,
    paper,
    searched_edit,
    unedited,
)
from crispr_lm.baselines.random_neurons import random_in_same_layers, random_neurons
from crispr_lm.baselines.rankings import (
    averaged_tokens,
    biased_term,
    largest_activations,
    largest_weights,
    sign_flipped,
    skill_term,
    unweighted,
)
from crispr_lm.baselines.steering import steering
from crispr_lm.baselines.written_prompts import chain_of_thought, self_help
from crispr_lm.errors import InputError
from crispr_lm.runtime.plugins import Registry

EVERY = "all"
"""Stands for all methods in ``--methods``, but for those that are run only where they are named."""

ABLATION = ("published", "mean-tokens", "no-confusion-weight", "biased-term", "random")
"""The rows of the paper's ablation: all of it, tokens averaged, no confusion weight, no skill term, random neurons."""

_TABLE = (
    Method("original", "Original", "original", "The unedited model.", unedited),
    Method(
        "search",
        "crispr-lm search",
        "library",
        "The edit that crispr-lm run makes. With --removed no search is run, and this is the published ranking.",
        searched_edit,
    ),
    Method(
        "published",
        "Published ranking",
        "library",
        "As many neurons as the search removes, by the paper's ranking alone.",
        highest_bias_influence,
        "Yang et al., ACL 2024, arXiv 2311.09627",
    ),
    Method(
        "golden-section",
        "Published ranking, golden section",
        "baseline",
        "The neurons of highest B; their number by a golden-section search on validation accuracy, the rule of the "
        "paper's code with the settings of this comparison.",
        golden_section_on_accuracy,
        "Yang et al., ACL 2024, arXiv 2311.09627",
    ),
    Method(
        "crispr-paper",
        "CRISPR (paper)",
        "baseline",
        "The whole procedure of the paper's authors, with its own settings (those of crispr-lm run --preset paper).",
        paper,
        "Yang et al., ACL 2024, arXiv 2311.09627",
        named_only=True,
    ),
    Method(
        "random",
        "Random neurons",
        "control",
        "As many neurons, drawn from the whole model.",
        random_neurons,
        random=True,
    ),
    Method(
        "random-layers",
        "Random, same layers",
        "control",
        "In each module as many neurons as the search removes there.",
        random_in_same_layers,
        random=True,
    ),
    Method(
        "weights",
        "Largest weights",
        "control",
        "The neurons whose eliminated weights have the largest norm.",
        largest_weights,
    ),
    Method(
        "activations",
        "Highest activation",
        "control",
        "The neurons of highest mean absolute activation on the attribution prompts.",
        largest_activations,
    ),
    Method("sign-flipped", "Lowest B", "control", "The neurons of lowest bias influence.", sign_flipped),
    Method(
        "biased-term",
        "Biased term only (λ = 0)",
        "control",
        "The neurons of highest relevance for the biased answer.",
        biased_term,
    ),
    Method(
        "mean-tokens",
        "Tokens averaged",
        "control",
        "The neurons of highest B, with the mean over tokens in place of the maximum.",
        averaged_tokens,
    ),
    Method(
        "no-confusion-weight",
        "No confusion weight",
        "control",
        "The neurons of highest B, without the factor P(biased answer).",
        unweighted,
    ),
    Method(
        "skill-term",
        "Skill term only",
        "control",
        "The neurons of highest relevance for the right answer, the term that B subtracts.",
        skill_term,
    ),
    Method(
        "instruction",
        "Fairness instruction",
        "baseline",
        "Every instruction begins with a request to be fair.",
        fairness_instruction,
    ),
    Method(
        "chain-of-thought",
        "Chain of thought",
        "baseline",
        "The model writes its reasoning, which then stands in the prompt.",
        chain_of_thought,
        "Kojima et al., NeurIPS 2022, arXiv 2205.11916; Ganguli et al., 2023, arXiv 2302.07459",
    ),
    Method(
        "self-help",
        "Self-help",
        "baseline",
        "The model rewrites the context without stereotypes, and answers by its own version.",
        self_help,
        "Echterhoff et al., Findings of EMNLP 2024, arXiv 2403.00811",
    ),
    Method(
        "contextual-calibration",
        "Contextual calibration",
        "baseline",
        "Option scores less what the model gives them on content-free input.",
        contextual_calibration,
        "Zhao et al., ICML 2021, arXiv 2102.09690",
    ),
    Method(
        "domain-calibration",
        "Domain-context calibration",
        "baseline",
        "Option scores less what the model gives them on random words of the task.",
        domain_context_calibration,
        "Fei et al., ACL 2023, arXiv 2305.19148",
    ),
    Method(
        "minimal-pairs",
        "Activation difference",
        "baseline",
        "The neurons more active on biased than on right answers are eliminated.",
        minimal_pairs,
    ),
    Method(
        "integrated-gradients",
        "Integrated gradients",
        "baseline",
        "The neurons of highest B, with integrated gradients in place of activation x gradient.",
        integrated_gradients,
        "Sundararajan et al., ICML 2017, arXiv 1703.01365; Dai et al., ACL 2022, arXiv 2104.08696",
    ),
    Method(
        "bias-knowledge",
        "Bias knowledge scaled up",
        "baseline",
        "The neurons that right answers to questions about bias rest on are scaled up, none is eliminated.",
        bias_knowledge,
        "after KnowBias, Pan et al., 2026, arXiv 2601.21864",
    ),
    Method(
        "steering",
        "Steering",
        "baseline",
        "A mean-difference direction is added to the residual stream.",
        steering,
        "Rimsky et al., ACL 2024, arXiv 2312.06681",
    ),
    Method(
        "lora",
        "LoRA adapter",
        "baseline",
        "An adapter in every linear layer is trained to choose the right option.",
        lora,
        "Hu et al., ICLR 2022, arXiv 2106.09685",
    ),
)

METHODS = Registry("method", ((method.name, method) for method in _TABLE))
"""Every method by name, in the order of tables."""


def register_baseline(method: Method) -> None:
    """Add a method to compare with: ``crispr-lm compare`` fits and measures it as it does its own.

    Raises:
        InputError: the name is taken or is no name.
    """
    if method.name == EVERY:
        raise InputError(f"{EVERY!r} stands for all methods; choose another name")
    METHODS.register(method.name, method)
