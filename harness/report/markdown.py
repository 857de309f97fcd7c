"""A run as a summary for a pull request: what got worse first, with cause and commands, and the rest folded away.

It is GitHub's Markdown, which GitLab and others read too. Every text that may come from outside is written so that it
shows as it is: no character of it can begin a link, a mention, a tag or a cell of a table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.gate.timing import sees
from harness.report import answer, traces, verdicts
from harness.report.reported import Run
from harness.report.terminal import SAME, same
from harness.running.pipeline import Outcome
from harness.stored.baselines import ACCEPT
from harness.stored.escaping import escaped
from harness.stored.writing import whole

_MOST_BYTES = 60_000
"""GitHub takes 65,536 characters in a comment; what the terminal showed is left out of a longer summary."""
_OPEN = 3
"""More cases than these that got worse are told one by one only on a click."""
_ANY = re.compile(r"[^\w .,:;()+/=%'\"?-]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.")
"""What is written as a number: all but letters, digits and marks that mean nothing, and what would make a link."""


def write(run: Run, file: Path) -> None:
    """Write the summary, and the traces of traced cases beside it.

    Raises:
        OSError: a file cannot be written.
    """
    whole(file, "\n".join(render(run, traces.write(run, file))).encode())


def render(run: Run, links: dict[str, str]) -> Iterator[str]:
    """Yield the lines.

    Args:
        run: that is told.
        links: of each traced case, by its id, its trace as seen from the summary.
    """
    lines = [*_head(run), *_worse(run), *_broken(run), *_answer(run), *_tables(run, links), *_not_run(run), *_next(run)]
    yield from lines
    shown = [*_sections(run)]
    if sum(len(line.encode()) + 1 for line in (*lines, *shown)) <= _MOST_BYTES:
        yield from shown


def plain(text: str) -> str:
    """Return a text that shows as it is: its line ends as spaces, and every character that Markdown, HTML or a forge
    could take for its own as a number, which none of them looks into.
    """
    return _ANY.sub(lambda found: f"&#{ord(found[0])};", escaped(" ".join(text.split())))


def _code(text: str) -> str:
    return f"<code>{plain(text)}</code>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> Iterator[str]:
    """Yield a table, whose cells are escaped by who gives them."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(' --- ' if place < left else ' ---: ' for place in range(len(head)))}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _fenced(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines as they are, in a fence that is longer than any in them."""
    told = [escaped(re.sub(r"\x1b\[\d+m", "", line)) for line in lines]
    longest = max((len(run) for line in told for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (f"{fence}text", *told, fence, "")


def _folded(title: str, lines: Iterable[str], *, opened: bool = False) -> Iterator[str]:
    yield from (f"<details{' open' if opened else ''}><summary>{plain(title)}</summary>", "", *lines, "</details>", "")


def _head(run: Run) -> Iterator[str]:
    sign = "\N{CROSS MARK}" if run.worse or run.broken else "\N{WHITE HEAVY CHECK MARK}"
    yield from (f"## {sign} {plain(answer.counted(run))}", "")
    facts = [run.host, f"profile {run.profile}", f"torch {run.software.get('torch', 'n/a')}"]
    facts += [f"policy {run.policy}"] if run.policy else []
    facts += [f"commit {run.commit[:10]}" if run.commit else "changes that no commit holds"]
    facts += [f"exit status {run.exit_code}"] if run.exit_code is not None else []
    yield from (f"{plain(', '.join(facts))}", "")


def _worse(run: Run) -> Iterator[str]:
    if not run.worse:
        return
    yield from ("### What got worse", "")
    yield from _table(["case", "verdict", "why", "step", "95 % interval", "sees"], map(_row, run.worse), left=3)
    for outcome in run.worse:
        test = run.tests.get(outcome.case, "")
        said = run.failed.get(test)
        told = said.splitlines() if said else verdicts.failure(outcome, run.rerun(test), accept=ACCEPT)
        yield from _folded(str(outcome.case), _fenced(told), opened=len(run.worse) <= _OPEN)


def _row(outcome: Outcome) -> list[str]:
    effect = verdicts.primary(outcome)
    told = ["n/a"] * 3
    if effect is not None:
        told = [f"{effect.estimate:+.1%}", f"{effect.low:+.1%} to {effect.high:+.1%}", sees(effect.mde)]
    why = answer.reason(outcome).removeprefix(f"{outcome.verdict.word}: ")
    return [_code(outcome.case.id), plain(outcome.verdict.word), plain(why), *told]


def _broken(run: Run) -> Iterator[str]:
    if not run.broken:
        return
    yield from ("### What failed to run", "")
    rows = [[_code(test), plain(said.partition("\n")[0])] for test, said in run.broken.items()]
    yield from _table(["test", "what it said"], rows, left=2)
    for test, said in run.broken.items():
        yield from _folded(test, _fenced(said.splitlines()))


def _answer(run: Run) -> Iterator[str]:
    if advices := answer.advices(run):
        yield from ("### What to take", "")
        for advice in advices:
            yield f"- **{plain(answer.heading(advice))}**: {'; '.join(map(plain, advice.sentences))}"
        yield ""


def _tables(run: Run, links: dict[str, str]) -> Iterator[str]:
    metrics = sorted(run.registry.metrics.values(), key=lambda metric: metric.order)
    for model, outcomes in run.by_model():
        full = [case for case in run.out_of_memory if case.model == model]
        shown = [m for m in metrics if any(m.value(one.result, one.reference) is not None for one in outcomes)]
        rows = []
        for one in outcomes:
            values = [metric.value(one.result, one.reference) for metric in shown]
            name = _code(one.case.id) + ("\\*" if one.result.oversubscribed else "")
            link = f" [trace]({links[one.case.id]})" if one.case.id in links else ""
            cells = [
                "n/a" if value is None else plain(metric.show(value))
                for metric, value in zip(shown, values, strict=True)
            ]
            rows.append([name + link, *cells, plain(same(one.certificate)), plain(one.verdict.word)])
        rows += [[_code(str(case)), *("-" for _ in shown), "", "out of memory"] for case in full]
        words = Counter(row[-1] for row in rows)
        told = ", ".join(f"{count} {word}" for word, count in words.most_common())
        references = sorted({one.reference.case_id for one in outcomes if one.reference is not None})
        notes = [f"speedup against {', '.join(references)}"] if references else []
        notes += ["*: more ranks than cores, so that its time says little"] if any(_shared(outcomes)) else []
        notes += [SAME] if outcomes else []
        lines = _table(["case", *(metric.title for metric in shown), "same", "verdict"], rows)
        yield from _folded(f"{model}: {told}", [*lines, *(plain(note) + "  " for note in notes), ""])


def _shared(outcomes: Iterable[Outcome]) -> Iterator[bool]:
    yield from (one.result.oversubscribed for one in outcomes)


def _not_run(run: Run) -> Iterator[str]:
    if not (run.skipped or run.left_out):
        return
    counted = Counter(run.skipped.values()).most_common()
    lines = [f"- {count} x {plain(reason)}" for reason, count in counted]
    if run.left_out:
        words = ", ".join(f"{word} ({count})" for word, count in sorted(run.left_out.items()))
        lines.append(f"- left out, as nothing named them: {plain(words)}")
    yield from _folded(f"Not run: {len(run.skipped)} skipped", [*lines, ""])


def _next(run: Run) -> Iterator[str]:
    if steps := answer.next_steps(run, reported=True):
        lines = [line for purpose, command in steps for line in (f"# {purpose}", command)]
        yield from _folded("What to do next", _fenced(lines), opened=bool(run.worse))
    yield from (f"Made by {_code(run.command)}", "")


def _sections(run: Run) -> Iterator[str]:
    """Yield what the terminal showed beside the answer and the tables, folded part by part."""
    for title, lines in run.sections:
        if title not in ("the answer", "results", "not run", "what to do next"):
            yield from _folded(title[:1].upper() + title[1:], _fenced(lines))
