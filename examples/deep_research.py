"""Deep research: a planner writes questions, searchers work on them side by side, a writer joins their notes."""

from __future__ import annotations

import heterarch as ha

PLANNER = WRITER = "Meta-Llama-3.1-70B"
SEARCHER = "Meta-Llama-3.1-8B"
WEKA = ha.Source(ha.Grade.MEASURED, "claude_code_weka subagents: 21 tool uses, prompt p50 45k, output p50 235")
AGENTCGROUP = ha.Source(ha.Grade.MEASURED, "AgentCgroup tool calls, haiku runs")
ARXIV = ha.Source(ha.Grade.MEASURED, "arXiv summarisation lengths (Vidur processed traces)")


@ha.compute
def questions(plan: str) -> list[str]:
    """One question per line of the plan, at most eight."""
    return [line.strip() for line in plan.splitlines() if line.strip()][:8] or [plan[:200]]


@ha.tool(seconds=ha.quantiles(p50=12.9, p90=16.1, p99=17.0, source=AGENTCGROUP))
def web_search(query: str) -> str:
    """Stand-in for a web search."""
    return f"No network here; nothing found for {query[:60]!r}."


@ha.tool(seconds=ha.quantiles(p50=8.1, p90=9.9, p99=13.0, source=AGENTCGROUP))
def web_fetch(found: str) -> str:
    """Stand-in for fetching the page that a search found."""
    return f"(page text) {found[:200]}"


@ha.agent
def searcher(question: ha.Text) -> ha.Text:
    """Search and read in turns, then report."""

    def turn(chat: ha.Chat, finding: ha.Text) -> tuple[ha.Chat, ha.Text]:
        chat, query = ha.model(
            SEARCHER,
            chat,
            finding,
            tokens_in=ha.quantiles(p5=200, p50=2000, p95=6000, source=WEKA),
            tokens_out=ha.quantiles(p5=60, p50=235, p95=800, source=WEKA),
            max_tokens=800,
            name="read",
        )
        return chat, web_fetch(web_search(query))

    chat = ha.chat("You search the web and report facts with their sources.", tokens=2800)
    _, report = ha.loop(turn, chat, question, trips=ha.quantiles(p0=3, p50=10, p95=21, source=WEKA), max_trips=4)
    return report


@ha.agent
def deep_research(topic: ha.Text) -> ha.Text:
    """A report on ``topic``."""
    plan = ha.model(
        PLANNER, topic, template="List research questions, one per line, on: {0}", tokens_in=300, tokens_out=250,
        max_tokens=250, name="planner",
    )  # fmt: skip
    notes = ha.map(searcher, questions(plan), width=ha.quantiles(p0=2, p50=5, p100=8), name="searchers")
    return ha.model(
        WRITER,
        topic,
        notes,
        template="Write a report on {0} from these notes:\n{1}",
        tokens_in=ha.quantiles(p5=749, p25=1986, p50=2730, p75=3370, p95=3813, source=ARXIV),
        tokens_out=ha.quantiles(p5=60, p25=115, p50=167, p75=242, p95=736, source=ARXIV),
        max_tokens=1000,
        name="writer",
    )
