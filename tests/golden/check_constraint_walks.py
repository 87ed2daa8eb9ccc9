"""Validates random answers under schemas with `jsonschema`, and keeps them as tests/golden/constraints/walks.json.

Needs: pip install "jsonschema[format]==4.26.0"
Run:   python tests/golden/check_constraint_walks.py FILE

FILE is what constraint_test wrote: tokens drawn at random among those that a schema's mask allows, until an end was
allowed. Every text must be JSON that satisfies its schema; otherwise nothing is written and the exit code is 1.
"""

import json
import sys
from pathlib import Path

from jsonschema import Draft202012Validator, FormatChecker

OUT = Path(__file__).parent / "constraints" / "walks.json"


def main():
    text = Path(sys.argv[1]).read_text()
    checked = failed = 0
    for row in json.loads(text):
        validator = Draft202012Validator(row["schema"], format_checker=FormatChecker())
        for answer in row["texts"]:
            checked += 1
            try:
                value = json.loads(answer)
            except ValueError as error:
                failed += 1
                print(f"no JSON: {answer!r}: {error}")
                continue
            for problem in validator.iter_errors(value):
                failed += 1
                print(f"{answer!r} under {row['schema']}: {problem.message}")
    print(f"{checked} answers, {failed} wrong")
    if failed or not checked:
        return 1
    OUT.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
