"""Writes tests/golden/constraints/counted.json: schemas with minProperties, maxProperties, uniqueItems and patternProperties, each
with every text of a small world and the verdict of `jsonschema` on it.

Needs: pip install "jsonschema==4.26.0"
Run:   python tests/golden/make_counted_golden.py
"""
import itertools
import json
import pathlib

import jsonschema

NAMED = {"a": {"type": "integer"}, "b": {"type": "boolean"}, "c": {"type": "null"}}
VALUES = {"a": 1, "b": True, "c": None, "x": 0, "y": "s", "x1": 2, "zz": 3}


def objects(names):
    """Objects with some of the names, in their order."""
    for n in range(len(names) + 1):
        for some in itertools.combinations(names, n):
            yield {name: VALUES[name] for name in some}


def lists(values, longest):
    for n in range(longest + 1):
        yield from map(list, itertools.product(values, repeat=n))


def closed(**more):
    return {"type": "object", "properties": NAMED, "additionalProperties": False} | more


def open_to(**more):
    return {"type": "object", "properties": {"a": NAMED["a"]}, "additionalProperties": True} | more


SMALL, LARGE = list("abc"), ["a", "x", "y", "zz"]
CASES = [(closed(minProperties=1), objects(SMALL)),
         (closed(minProperties=2), objects(SMALL)),
         (closed(maxProperties=1), objects(SMALL)),
         (closed(minProperties=1, maxProperties=2, required=["b"]), objects(SMALL)),
         (closed(minProperties=2, maxProperties=2), objects(SMALL)),
         (closed(minProperties=2, required=["a"]), objects(SMALL)),
         (closed(minProperties=3), objects(SMALL)),
         (closed(maxProperties=0), objects(SMALL)),
         (open_to(minProperties=1), objects(LARGE)),
         (open_to(maxProperties=2), objects(LARGE)),
         (open_to(minProperties=1, maxProperties=3), objects(LARGE)),
         (open_to(maxProperties=1, required=["a"]), objects(LARGE)),
         ({"type": "object", "maxProperties": 2}, objects(LARGE)),
         ({"type": "object", "minProperties": 1, "maxProperties": 1}, objects(LARGE)),
         ({"type": "object", "patternProperties": {"^x[0-9]?$": {"type": "integer"}}, "additionalProperties": False},
          objects(["x", "x1", "y"])),
         ({"type": "object", "patternProperties": {"z": {"type": "integer"}}, "additionalProperties": False, "minProperties": 1},
          objects(["x", "zz"])),
         ({"type": "array", "items": {"enum": ["p", "q", 1]}, "uniqueItems": True}, lists(["p", "q", 1], 4)),
         ({"type": "array", "items": {"enum": ["p", "q", 1]}, "uniqueItems": True, "minItems": 2}, lists(["p", "q", 1], 4)),
         ({"type": "array", "items": {"enum": ["p", "q", 1]}, "uniqueItems": True, "minItems": 1, "maxItems": 2},
          lists(["p", "q", 1], 3)),
         ({"type": "array", "items": {"type": "integer", "enum": ["p", 7, 7, 8]}, "uniqueItems": True}, lists(["p", 7, 8], 3)),
         ({"type": "array", "uniqueItems": True, "maxItems": 1}, lists([1, "p"], 2))]


def main():
    out = []
    for schema, world in CASES:
        validator = jsonschema.Draft202012Validator(schema)
        verdicts = {"valid": [], "invalid": []}
        for value in world:
            verdicts["valid" if validator.is_valid(value) else "invalid"].append(json.dumps(value))
        out.append({"schema": schema} | verdicts)
    path = pathlib.Path(__file__).parent / "constraints" / "counted.json"
    path.write_text("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")


main()
