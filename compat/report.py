#!/usr/bin/env python3
"""report.py SCRATCH DOCS SUITE...: writes DOCS/compatibility.md from the results run-all left in SCRATCH.

Suites that did not run this time, or on another number of nodes, keep their section. Why a test is missing is looked up
in why.txt beside this script: `regular expression<TAB>later|differs|fault<TAB>reason`, first match wins; what no line
explains is marked as a fault.
"""

import pathlib
import re
import sys

here = pathlib.Path(__file__).resolve().parent
scratch, docs, suites = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
page = docs / "compatibility.md"
HEAD = """# Client suites on Ottla

Written by `compat/run-all`; do not edit. The suites are other projects' own integration tests; the baseline is
what of each passes on Apache Kafka 4.3.1, on as many nodes as the suite's README says. Default properties unless it says
otherwise.
A test that Kafka passes and Ottla does not is *missing*, with the reason: *later* waits for a part of Kafka that
is not built yet, *differs* is meant to be so, and the rest are faults.

"""
UNEXPLAINED = ("fault", "not yet looked at")
COUNTS = re.compile(r"^(\d+) of (\d+) pass; missing: (\d+) later, (\d+) differ, (\d+) faults\.", re.M)


def title(suite, nodes):
    return f"{suite} on {nodes} node" + ("s" if nodes > 1 else "")


def names(path):
    if not path.exists():
        return []
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def reasons():
    lines = [line.split("\t", 2) for line in names(here / "why.txt")]
    return [(re.compile(pattern), (kind, reason.strip())) for pattern, kind, reason in lines]


def baseline(suite, results):
    if suite == "java-tools":  # every check passes on Kafka
        return set(results)
    return set(names(here / suite / "baseline.txt")) - set(names(here / suite / "flaky.txt"))



def section(suite):
    results = {}
    for line in (scratch / f"{suite}.result").read_text().splitlines():
        outcome, _, test = line.partition(" ")
        results[test.split(" ")[0] if suite == "java-tools" else test.strip()] = outcome
    expected = baseline(suite, results)
    passed = sorted(t for t in expected if results.get(t) == "PASS")
    missing = sorted(expected - set(passed))
    seconds = (scratch / f"{suite}.seconds").read_text().strip()
    nodes = int((scratch / f"{suite}.nodes").read_text())
    known = reasons()
    # What is true of a number of nodes comes before what is always true.
    texts = {test: [f"{suite} {test} on {nodes} nodes", f"{suite} {test}"] for test in missing}
    why = {test: next((why for text in texts[test] for pattern, why in known if pattern.search(text)), UNEXPLAINED) for test in missing}
    later, differ, faults = (sum(kind == wanted for kind, _ in why.values()) for wanted in ("later", "differs", "fault"))
    figures = f"{len(passed)} of {len(expected)} pass; missing: {later} later, {differ} differ, {faults} faults."
    lines = [f"## {title(suite, nodes)}", "", f"{figures} {seconds} s.", ""]
    if missing:
        lines += ["| missing | | why |", "|---|---|---|"]
    for test, (kind, reason) in why.items():
        lines.append(f"| `{test}` | {kind} | {reason} |")
    return title(suite, nodes), "\n".join(lines).rstrip() + "\n"


def summary(sections):
    lines = ["| suite | passes, of what Kafka passes | later | differs | faults |", "|---|---|---|---|---|"]
    totals = {}
    for name, text in sorted(sections.items(), key=lambda section: section[0].partition(" on ")[::-1]):
        figures = [int(figure) for figure in COUNTS.search(text).groups()]
        nodes = name.partition(" on ")[2]
        totals[nodes] = [before + figure for before, figure in zip(totals.get(nodes, [0] * 5), figures)]
        lines.append("| {} | {} of {} | {} | {} | {} |".format(name, *figures))
    for nodes, total in totals.items():
        lines.append("| all on {} | {} of {} | {} | {} | {} |".format(nodes, *total))
    return "\n".join(lines) + "\n"


sections = {}
if page.exists():
    for part in page.read_text().split("\n## ")[1:]:
        sections[part.split("\n")[0].strip()] = "## " + part.rstrip() + "\n"
complete = True
for suite in suites:
    if (scratch / f"{suite}.result").exists():
        name, text = section(suite)
        sections[name] = text
    else:
        complete = False
        print(f"{suite}: no result", file=sys.stderr)
sections = {name: text for name, text in sections.items() if COUNTS.search(text)}
page.write_text(HEAD + summary(sections) + "".join("\n" + sections[name] for name in sorted(sections)))
sys.exit(0 if complete else 1)
