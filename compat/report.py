#!/usr/bin/env python3
"""report.py SCRATCH DOCS SUITE...: writes DOCS/compatibility.md from the results run-all left in SCRATCH.

Suites that did not run this time keep their section. Why a test is missing is looked up in why.txt beside
this script: `regular expression<TAB>reason`, first match wins; what no line explains is marked as ours.
"""

import pathlib
import re
import sys

here = pathlib.Path(__file__).resolve().parent
scratch, docs, suites = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
page = docs / "compatibility.md"
HEAD = """# Client suites on Ottla

Written by `compat/run-all`; do not edit. The suites are other projects' own integration tests; the baseline is
what of each passes on Apache Kafka 4.3.1. One node, default properties unless the suite's README says otherwise.
A test that Kafka passes and Ottla does not is *missing*, with the reason.
"""


def names(path):
    if not path.exists():
        return []
    return [line.strip() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]


def reasons():
    pairs = [line.split("\t", 1) for line in names(here / "why.txt")]
    return [(re.compile(pattern), reason.strip()) for pattern, reason in pairs]


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
    lines = [f"## {suite}", "", f"{len(passed)} of {len(expected)} pass; {len(missing)} missing. {seconds} s.", ""]
    if missing:
        lines += ["| missing | why |", "|---|---|"]
    for test in missing:
        why = next((reason for pattern, reason in reasons() if pattern.search(f"{suite} {test}")), "ours: not yet looked at")
        lines.append(f"| `{test}` | {why} |")
    return "\n".join(lines).rstrip() + "\n"


sections = {}
if page.exists():
    for part in page.read_text().split("\n## ")[1:]:
        sections[part.split("\n")[0].strip()] = "## " + part.rstrip() + "\n"
complete = True
for suite in suites:
    if (scratch / f"{suite}.result").exists():
        sections[suite] = section(suite)
    else:
        complete = False
        print(f"{suite}: no result", file=sys.stderr)
page.write_text(HEAD + "".join("\n" + sections[name] for name in sorted(sections)))
sys.exit(0 if complete else 1)
