"""Writes tests/golden/templates/{conversations,snippets}.json: what Python's Jinja2 renders.

    pip install Jinja2==3.1.6 transformers==5.23.0
    python3 tests/golden/make_template_golden.py

The environment is the one `transformers` compiles chat templates in, except that lists may be changed by the
template (Kimi-K2's does so), and that strftime_now stands at one fixed moment. templates/*.jinja are the files
that the models ship; pebble.jinja is this project's. Every case holds either "output" or "error": true.
"""
import datetime
import json
import os
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import SandboxedEnvironment

sys.path.insert(0, os.path.dirname(__file__))
from transformers.utils.chat_template_utils import _compile_jinja_template  # noqa: E402

from template_cases import CONVERSATIONS, SNIPPETS, VARIABLES  # noqa: E402

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")
NOW = datetime.datetime(2025, 3, 9, 7, 5, 2)


class Generation(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %}, as transformers defines it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Namespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        if any(isinstance(name, str) and name.startswith("_") for name in attributes):
            raise jinja2.exceptions.SecurityError("underscore")
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name, value):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError("underscore")
        jinja2.utils.Namespace.__setitem__(self, name, value)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = SandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda pattern: NOW.strftime(pattern)
    env.globals["namespace"] = Namespace
    return env


ENV = environment()


def render(source, variables):
    """The case's result: {"output": ...} or {"error": True, "message": ...}."""
    try:
        text = ENV.from_string(source).render(**json.loads(json.dumps(variables)))
        text.encode()
        check_against_transformers(source, variables, text)
        return {"output": text}
    except RecursionError:
        raise
    except Exception as error:  # noqa: BLE001
        raised = type(error) is jinja2.exceptions.TemplateError
        return {"error": True, "message": str(error) if raised else ""}


def check_against_transformers(source, variables, text):
    """Its own environment must agree wherever it does not refuse (it forbids to change lists)."""
    if "strftime_now" in source:
        return
    try:
        theirs = _compile_jinja_template(source).render(**json.loads(json.dumps(variables)))
    except jinja2.exceptions.SecurityError:
        return
    if theirs != text and " at 0x" not in text:
        raise SystemExit(f"transformers renders another text for {source!r}: {theirs!r} and {text!r}")


def main():
    conversations = []
    for name in sorted(os.listdir(FOLDER)):
        if not name.endswith(".jinja"):
            continue
        with open(os.path.join(FOLDER, name), encoding="utf-8", newline="") as file:
            source = file.read()
        for title, variables in CONVERSATIONS.items():
            result = render(source, variables)
            conversations.append({"template": name, "case": title, **result})
    snippets = []
    for source in SNIPPETS:
        snippets.append({"source": source, **render(source, VARIABLES)})
    for name, data in [
        ("conversations", {"variables": CONVERSATIONS, "results": conversations}),
        ("snippets", {"variables": VARIABLES, "results": snippets}),
    ]:
        with open(os.path.join(FOLDER, name + ".json"), "w", encoding="utf-8") as file:
            json.dump(data, file, ensure_ascii=False, indent=1)
            file.write("\n")
    failed = sum("error" in s for s in snippets)
    print(f"{len(conversations)} conversations, {len(snippets)} snippets, {failed} of them errors")


if __name__ == "__main__":
    main()
