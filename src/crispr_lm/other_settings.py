"""Options of the commands that are no part of a run: chat, page, and questions from logs. As `crispr_lm.settings`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import Field

from crispr_lm.settings import MODEL_GROUP, ModelSettings, StrictSettings

ANSWER_GROUP = Group.create_ordered("Answers: how they are written")
APP_GROUP = Group.create_ordered("Page: where it is")
LOG_GROUP = Group.create_ordered("Log: what of it is read")


@Parameter(name="*")
class LogSettings(StrictSettings):
    """What ``crispr-lm questions from`` takes of a log, and which words it exchanges beside the user's."""

    builtin: Annotated[bool, Parameter(group=LOG_GROUP)] = Field(
        True, description="Exchange women and men, too: pronouns, nouns, common first names."
    )
    metric: Annotated[str | None, Parameter(group=LOG_GROUP)] = Field(
        None, description="Take only what failed by this assertion, metric or scorer."
    )
    prompt_column: Annotated[str | None, Parameter(group=LOG_GROUP)] = Field(
        None, description="Column of a table that holds the prompts; by default it is recognised by its name."
    )
    answer_column: Annotated[str | None, Parameter(group=LOG_GROUP)] = Field(
        None, description="Column that holds the answers, likewise."
    )


@Parameter(name="*")
class ChatSettings(ModelSettings):
    """All options of ``crispr-lm chat`` but its edit."""

    max_new_tokens: Annotated[int, Parameter(group=ANSWER_GROUP)] = Field(
        200, ge=1, description="Most tokens of an answer."
    )
    temperature: Annotated[float, Parameter(group=ANSWER_GROUP)] = Field(
        0.0, ge=0, allow_inf_nan=False, description="0 writes the likeliest words; higher values sample more widely."
    )
    seed: Annotated[int, Parameter(group=ANSWER_GROUP)] = Field(
        0, ge=0, lt=2**32, description="Seed of the sampling, the same for both answers."
    )


@Parameter(name="*")
class AppSettings(ModelSettings):
    """All options of ``crispr-lm app`` but its folder."""

    model: Annotated[str | None, Parameter(group=MODEL_GROUP)] = Field(
        None, description="Where the model is, if not where the run found it: hub id, local folder, .gguf file."
    )
    host: Annotated[str, Parameter(group=APP_GROUP)] = Field(
        "127.0.0.1", description="Address to serve on. Any other is open to everyone who can reach this machine."
    )
    port: Annotated[int, Parameter(group=APP_GROUP)] = Field(7860, ge=1, le=65535, description="Port to serve on.")
