"""Arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from crispr_lm.settings import OUTPUT_GROUP

ModelArgument = Annotated[
    str,
    Parameter(
        help="Hub id, local folder, PEFT adapter, .gguf file, ollama:NAME, or builtin:smollm2.",
        env_var=(),
        show_env_var=False,
    ),
]
OutputFile = Annotated[Path, Parameter(group=OUTPUT_GROUP)]
