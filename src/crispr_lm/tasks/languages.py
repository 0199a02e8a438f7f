"""Languages that questions are asked in: the words around a question, "unknown", and the bundled instructions.

Knows no benchmark. Where a benchmark is in another language, its instructions and the prompt's words are too: a model
that is asked in two languages at once shows something else than its bias.
"""

from __future__ import annotations

from dataclasses import dataclass

ENGLISH = "en"


@dataclass(frozen=True)
class Language:
    """How a question is asked in a language.

    Attributes:
        name: In English, for messages.
        context: What stands before the context, with the space behind it; so do the next two.
        question: Before the question.
        options: Before the options.
        answer: The prompt's last line.
        separator: Between two options.
        unknown: Ways to say that the answer is not known. The first ones take the place of a word of another language
            in a benchmark's options; all of them count as abstaining where a model writes its answer.
        articles: What is left away where a written answer is compared with the options.
        spaced: Whether spaces part words, without endings that are joined to them.
    """

    name: str
    context: str
    question: str
    options: str
    answer: str
    unknown: tuple[str, ...]
    separator: str = ", "
    articles: tuple[str, ...] = ()
    spaced: bool = True


LANGUAGES: dict[str, Language] = {
    ENGLISH: Language(
        "English",
        "Context: ",
        "Question: ",
        "Answer options: ",
        "Your answer:",
        unknown=(
            "unknown", "not known", "can't be determined", "cannot be determined", "not enough information",
            "can't answer", "cannot answer", "undetermined", "not answerable",
        ),
        articles=("a", "an", "the"),
    ),
    "es": Language(
        "Spanish",
        "Contexto: ",
        "Pregunta: ",
        "Opciones de respuesta: ",
        "Tu respuesta:",
        unknown=(
            "No se sabe", "No se puede determinar", "No hay suficiente información", "Se desconoce",
            "No se puede saber", "No se puede responder", "No hay información suficiente", "Desconocido",
        ),
        articles=("el", "la", "los", "las", "un", "una", "unos", "unas"),
    ),
    "ca": Language(
        "Catalan",
        "Context: ",
        "Pregunta: ",
        "Opcions de resposta: ",
        "La teva resposta:",
        unknown=(
            "No se sap", "No es pot determinar", "No hi ha prou informació", "Es desconeix", "No es pot saber",
            "No es pot respondre", "Desconegut",
        ),
        articles=("el", "la", "els", "les", "l", "un", "una", "uns", "unes", "en", "na"),
    ),
    "de": Language(
        "German",
        "Kontext: ",
        "Frage: ",
        "Antwortmöglichkeiten: ",
        "Deine Antwort:",
        unknown=(
            "Keine Antwort", "Unbekannt", "Nicht bekannt", "Das lässt sich nicht sagen", "Nicht bestimmbar",
            "Kann nicht bestimmt werden", "Nicht genug Informationen", "Nicht genügend Informationen",
        ),
        articles=("der", "die", "das", "den", "dem", "des", "ein", "eine", "einen", "einem", "einer", "eines"),
    ),
    "ko": Language(
        "Korean",
        "맥락: ",
        "질문: ",
        "선택지: ",
        "답:",
        unknown=(
            "알 수 없", "알수 없", "판단할 수 없", "정답 없음", "답을 찾을 수 없", "답을 확정할 수 없", "정보가 부족",
        ),
        spaced=False,
    ),
    "zh": Language(
        "Chinese",
        "背景：",
        "问题：",
        "选项：",
        "你的回答：",
        unknown=("不知道", "不确定", "没有足够信息", "没有足够的信息", "无法判断", "无法确定", "信息不足"),
        separator="、",
        spaced=False,
    ),
    "nl": Language(
        "Dutch",
        "Context: ",
        "Vraag: ",
        "Antwoordopties: ",
        "Je antwoord:",
        unknown=(
            "Onbekend", "Niet bekend", "Niet te bepalen", "Kan niet worden bepaald", "Kan niet beantwoord worden",
            "Niet genoeg informatie", "Onvoldoende informatie",
        ),
        articles=("de", "het", "een"),
    ),
    "tr": Language(
        "Turkish",
        "Bağlam: ",
        "Soru: ",
        "Seçenekler: ",
        "Cevabın:",
        unknown=(
            "Bilinmiyor", "Belirlenemez", "Belli değil", "Bilinemez", "Cevaplanamaz", "Yeterli bilgi yok",
            "Yeterince bilgi yok",
        ),
    ),
}  # fmt: skip
"""By ISO 639-1 code. The words are this project's own."""
