"""A voice agent: speech to text, an LLM that may search the web, text to speech on the streaming answer."""

from __future__ import annotations

import heterarch as ha

MODEL = "Meta-Llama-3.1-8B"
VENDORS = ha.Source(ha.Grade.RECALLED, "voice pipeline vendors' published stage times, 2025")
AGENTCGROUP = ha.Source(ha.Grade.MEASURED, "AgentCgroup tool calls, haiku runs (WebSearch)")
AZURE = ha.Source(ha.Grade.MEASURED, "Azure LLM inference trace 2023, conversation, prompts up to 1.2k tokens")


def transcribe(audio: bytes) -> str:
    """Stand-in for a speech model: the sample's text is its bytes."""
    return audio.decode(errors="replace") if isinstance(audio, bytes) else str(audio)


def speak(text: str) -> bytes:
    """Stand-in for a speech model: the text's bytes."""
    return text.encode()


@ha.compute
def needs_search(question: str) -> str:
    """Whether the question asks for something recent."""
    return "search" if any(word in question.lower() for word in ("today", "news", "weather")) else "answer"


@ha.tool(seconds=ha.quantiles(p50=12.9, p90=16.1, p99=17.0, source=AGENTCGROUP))
def web_search(query: str) -> str:
    """Stand-in for a web search."""
    return f"No network here; nothing found for {query[:60]!r}."


def look_up(question: ha.Text) -> ha.Text:
    """Facts from the web."""
    found: ha.Text = web_search(question)
    return found


def no_search(question: ha.Text) -> ha.Text:
    """Answer from the model alone."""
    return question


@ha.agent
def voice_agent(audio: ha.Audio) -> ha.Audio:
    """Answer a spoken question."""
    question = ha.speech_to_text(
        audio, using=transcribe, seconds=ha.quantiles(p5=0.08, p50=0.11, p95=0.15, source=VENDORS), name="stt"
    )
    facts = ha.branch(
        needs_search(question),
        {"search": look_up, "answer": no_search},
        question,
        probabilities={"search": 0.1, "answer": 0.9},
    )
    answer = ha.model(
        MODEL,
        question,
        facts,
        template="Answer in two spoken sentences.\nQuestion: {0}\nFacts: {1}",
        tokens_in=ha.quantiles(p5=181, p25=350, p50=700, p75=1000, p95=1189, source=AZURE),
        tokens_out=ha.quantiles(p5=41, p25=85, p50=129, p75=200, p95=260, source=AZURE),
        max_tokens=300,
        streaming=True,
        name="llm",
    )
    return ha.text_to_speech(
        answer, using=speak, seconds=ha.quantiles(p5=0.15, p50=0.2, p95=0.25, source=VENDORS), name="tts"
    )
