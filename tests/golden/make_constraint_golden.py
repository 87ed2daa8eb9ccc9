"""Writes tests/golden/constraints/schemas.json and regexes.json: texts with the verdicts of other implementations.

Needs: pip install "jsonschema[format]==4.26.0"
Run:   python tests/golden/make_constraint_golden.py

schemas.json: JSON Schemas, made by hand and at random, each with texts that `jsonschema` says are valid or not.
Valid texts are spelled as the compiler promises to accept them: properties in the schema's order, others at the end
and only where `additionalProperties` is there, whole numbers without a point. Invalid ones come from valid ones by
changes of any kind. regexes.json: expressions with strings that Python's `re` matches in full (with re.ASCII) or not.
"""

import json
import random
import re
from pathlib import Path

from jsonschema import Draft202012Validator, FormatChecker

OUT = Path(__file__).parent / "constraints"

WORDS = ["a", "name", "x y", "é", "漢字", "𝄞", "", "tab\there", 'quo"te', "back\\slash", "line\nbreak", "/", "long " * 6]

HAND_MADE = [
    True,
    {},
    {"type": "object"},
    {"type": "array"},
    {"type": ["string", "null"]},
    {"type": ["integer", "boolean"]},
    {"type": "number"},
    {"enum": ["red", "green", 3, None, True, 1.5, [1, 2], {"a": 1}]},
    {"type": "string", "enum": ["a", "ab", "abc", 5]},
    {"const": {"k": [1, "two"]}},
    {"type": "string", "minLength": 2, "maxLength": 4},
    {"type": "string", "maxLength": 0},
    {"type": "string", "minLength": 30, "maxLength": 40},
    {"type": "string", "pattern": "^[a-z]{2,3}$"},
    {"type": "string", "pattern": "b+"},
    {"type": "string", "pattern": "^(\\+\\d{1,3})? ?\\d{3}-\\d{4}$"},
    {"type": "string", "pattern": "^\\S+\\s\\S+$"},
    {"type": "string", "pattern": "^[^\"\\\\]*$"},
    {"type": "string", "pattern": "^a|b$"},
    {"type": "string", "pattern": "^[A-Z]+$", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^\"?\\\\n$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "time"},
    {"type": "string", "format": "date-time"},
    {"type": "string", "format": "duration"},
    {"type": "string", "format": "email"},
    {"type": "string", "format": "hostname"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "ipv6"},
    {"type": "string", "format": "uuid"},
    {"type": "string", "format": "uri"},
    {"type": "integer", "minimum": -5, "maximum": 17},
    {"type": "integer", "minimum": 995, "maximum": 100203},
    {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 11},
    {"type": "integer", "minimum": 0},
    {"type": "integer", "maximum": -12},
    {"type": "integer", "minimum": 2.5, "maximum": 7.5},
    {"type": "integer", "multipleOf": 5, "minimum": -21, "maximum": 103},
    {"type": "integer", "multipleOf": 7},
    {"type": "integer", "multipleOf": 12, "minimum": 0},
    {"type": "number", "multipleOf": 1000, "exclusiveMinimum": 0, "exclusiveMaximum": 50000},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "minimum": -1.25, "maximum": 3.75},
    {"type": "number", "exclusiveMinimum": 10.05, "maximum": 10.1},
    {"type": "number", "minimum": 2.5},
    {"type": "number", "exclusiveMaximum": -0.125},
    {"type": "number", "minimum": -10, "exclusiveMaximum": 0},
    {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 3},
    {"type": "array", "items": {"type": "boolean"}, "maxItems": 0},
    {"type": "array", "items": {"type": "null"}, "minItems": 3},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False, "minItems": 2},
    {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": {"type": "null"}},
    {"type": "array", "prefixItems": [{"type": "string"}], "minItems": 1, "maxItems": 3},
    {"type": "array", "items": {"type": "array", "items": {"type": "number", "minimum": 0}, "maxItems": 2}},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a", "b"],
     "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "null"}},
     "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "null"}},
     "required": ["b"], "additionalProperties": False},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["b"],
     "additionalProperties": {"type": "boolean"}},
    {"type": "object", "properties": {"ab": {"type": "integer"}, "abc": {"type": "null"}, "é": True},
     "additionalProperties": {"type": "string"}},
    {"type": "object", "additionalProperties": {"type": "integer"}},
    {"type": "object", "properties": {"q\"": {"const": 1}, "n\n": {"const": 2}}, "required": ["q\"", "n\n"],
     "additionalProperties": False},
    {"type": "object", "properties": {"never": False, "a": True}, "additionalProperties": False},
    {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 3}, {"type": "null"}]},
    {"oneOf": [{"type": "integer"}, {"type": "string"}, {"type": "object", "properties": {}}]},
    {"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}},
                "required": ["kind", "x"], "additionalProperties": False},
               {"type": "object", "properties": {"kind": {"const": "b"}, "y": {"type": "string"}},
                "required": ["kind", "y"], "additionalProperties": False}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
               {"properties": {"b": {"type": "string"}}, "required": ["b"]}]},
    {"$ref": "#/$defs/list", "$defs": {"list": {"type": "object", "properties": {
        "value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/list"}, {"type": "null"}]}},
        "required": ["value", "next"], "additionalProperties": False}}},
    {"type": "object", "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
     "required": ["name"], "additionalProperties": False},
    {"definitions": {"a/b": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/definitions/a~1b"}},
    {"$defs": {"s": {"type": "string"}}, "type": "object", "required": ["p"], "additionalProperties": False,
     "properties": {"p": {"$ref": "#/$defs/s", "maxLength": 2, "description": "keywords beside a reference hold"}}},
    {"type": "object", "properties": {"t": {"type": "string"}}, "required": ["t"],
     "anyOf": [{"properties": {"u": {"type": "integer"}}, "required": ["u"]},
               {"properties": {"v": {"type": "integer"}}, "required": ["v"]}]},
    {"title": "Person", "type": "object", "additionalProperties": False,
     "properties": {"name": {"type": "string", "description": "a name"}, "age": {"type": "integer", "minimum": 0},
                    "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 4, "uniqueItems": False},
                    "address": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}], "default": None}},
     "required": ["name", "age", "tags", "address"],
     "$defs": {"Address": {"type": "object", "properties": {"street": {"type": "string"}, "zip": {
         "type": "string", "pattern": "^[0-9]{5}$"}}, "required": ["street", "zip"], "additionalProperties": False}}},
]

SAMPLES = {
    "date": ["2024-02-29", "2023-02-28", "1999-12-31"],
    "time": ["12:00:00Z", "23:59:59.123+02:00"],
    "date-time": ["2024-02-29T12:00:00Z", "2000-01-01T00:00:00.5-11:30"],
    "duration": ["P1Y2M3D", "PT5M", "P3W", "P1DT12H"],
    "email": ["a@b.org", "first.last+tag@mail.example.com"],
    "hostname": ["example.com", "a-b.c"],
    "ipv4": ["127.0.0.1", "255.249.99.0"],
    "ipv6": ["::1", "2001:db8::8a2e:370", "1:2:3:4:5:6:7:8"],
    "uuid": ["123e4567-e89b-12d3-a456-426614174000"],
    "uri": ["https://example.com/a/b?c=d#e", "http://localhost:8080/"],
}
PATTERNS = {
    "^[a-z]{2,3}$": ["ab", "abc"],
    "b+": ["b", "abba", "\"b\\"],
    "^(\\+\\d{1,3})? ?\\d{3}-\\d{4}$": ["555-1234", "+44 555-1234"],
    "^\\S+\\s\\S+$": ["a b", "é\t漢"],
    "^[^\"\\\\]*$": ["", "a\nb"],
    "^a|b$": ["a", "axx", "xxb"],
    "^[A-Z]+$": ["AB", "ABCDE"],
    "^\"?\\\\n$": ["\\n", "\"\\n"],
    "^[0-9]{5}$": ["01234"],
}


def random_schema(rng, depth):
    """A schema of the kinds the compiler keeps."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum"]
    if depth > 0:
        kinds += ["array", "object", "object", "anyOf"] * 2
    kind = rng.choice(kinds)
    if kind == "string":
        schema = {"type": "string"}
        low = rng.randrange(4)
        if rng.random() < 0.5:
            schema["minLength"] = low
        if rng.random() < 0.5:
            schema["maxLength"] = low + rng.randrange(4)
        return schema
    if kind in ("integer", "number"):
        schema = {"type": kind}
        low = rng.choice([-1000, -12, 0, 7, 99, 1234]) + (rng.choice([0, 0.5, 0.125]) if kind == "number" else 0)
        if rng.random() < 0.6:
            schema[rng.choice(["minimum", "exclusiveMinimum"])] = low
        if rng.random() < 0.6:
            schema[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([2, 15, 333, 100000])
        return schema
    if kind in ("boolean", "null"):
        return {"type": kind}
    if kind == "enum":
        return {"enum": rng.sample(["a", "b\"", "longer text", 1, -20, 2.5, None, False], rng.randrange(1, 5))}
    if kind == "array":
        schema = {"type": "array", "items": random_schema(rng, depth - 1)}
        low = rng.randrange(3)
        if rng.random() < 0.5:
            schema["minItems"] = low
        if rng.random() < 0.5:
            schema["maxItems"] = low + rng.randrange(3)
        return schema
    if kind == "anyOf":
        return {"anyOf": [random_schema(rng, depth - 1) for _ in range(rng.randrange(2, 4))]}
    names = rng.sample(["a", "b", "ab", "key one", "ü", "z9"], rng.randrange(1, 5))
    schema = {
        "type": "object",
        "properties": {name: random_schema(rng, depth - 1) for name in names},
        "required": [name for name in names if rng.random() < 0.5],
        "additionalProperties": rng.choice([False, False, {"type": "integer"}, True]),
    }
    return schema


def resolve(schema, root):
    while isinstance(schema, dict) and "$ref" in schema:
        target = root
        for part in schema["$ref"].lstrip("#").split("/")[1:]:
            target = target[part.replace("~1", "/").replace("~0", "~")]
        rest = {k: v for k, v in schema.items() if k != "$ref"}
        schema = {**target, **rest} if rest else target
    return schema


def number(rng, schema):
    whole = schema["type"] == "integer"
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if "multipleOf" in schema:
        return schema["multipleOf"] * rng.choice([0, 1, 2, 3, 11, 123456789, -1, -4])
    if low is None and high is None:
        return rng.choice([0, -1, 12345678901, 7] + ([] if whole else [0.5, -2.25, 1e30, 3.5e-07, 0.1 + 0.2]))
    low = high - 50 if low is None else low
    high = low + 50 if high is None else high
    value = rng.choice([low, high, (low + high) / 2, low + (high - low) * rng.random()])
    value = int(value) if whole or rng.random() < 0.3 else round(float(value), rng.randrange(1, 5))
    return int(value) if float(value).is_integer() else value


def anything(rng, depth=2):
    choices = [None, True, False, 0, -7, 2.5, rng.choice(WORDS)]
    if depth > 0:
        choices += [[anything(rng, depth - 1)], {"k": anything(rng, depth - 1)}, [], {}]
    return rng.choice(choices)


def value_of(rng, schema, root, depth=0):
    """A value that probably satisfies the schema, spelled as promised."""
    schema = resolve(schema, root)
    if schema is True or schema == {}:
        return anything(rng)
    if "allOf" in schema:
        merged = {}
        for part in schema["allOf"]:
            merged.update(value_of(rng, part, root, depth))
        return merged
    if "anyOf" in schema or "oneOf" in schema:
        options = schema.get("anyOf") or schema.get("oneOf")
        part = options[-1] if depth > 3 else rng.choice(options)
        if "properties" in schema:
            return {**value_of(rng, {k: v for k, v in schema.items() if k != "anyOf"}, root), **value_of(rng, {"type": "object", **part}, root)}
        return value_of(rng, part, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = rng.choice(kind)
    if kind == "string":
        if "format" in schema:
            return rng.choice(SAMPLES[schema["format"]])
        if "pattern" in schema:
            return rng.choice(PATTERNS[schema["pattern"]])
        low, high = schema.get("minLength", 0), schema.get("maxLength", schema.get("minLength", 0) + 6)
        return "".join(rng.choice("ab é漢𝄞\"\\\n/") for _ in range(rng.randint(low, high)))
    if kind in ("integer", "number"):
        return number(rng, {**schema, "type": kind})
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "null":
        return None
    if kind == "array":
        first = [value_of(rng, s, root, depth + 1) for s in schema.get("prefixItems", [])]
        items = schema.get("items", True)
        low = max(schema.get("minItems", 0) - len(first), 0)
        high = 0 if items is False else max(schema.get("maxItems", low + len(first) + 2) - len(first), low)
        if depth > 3:
            high = low
        return first + [value_of(rng, items, root, depth + 1) for _ in range(rng.randint(low, high))]
    out = {}
    required = schema.get("required", [])
    for name, part in schema.get("properties", {}).items():
        if part is not False and (name in required or (depth < 3 and rng.random() < 0.6)):
            out[name] = value_of(rng, part, root, depth + 1)
    more = schema.get("additionalProperties", True if not schema.get("properties") else False)
    for name in required:
        if name not in out:
            out[name] = value_of(rng, more, root, depth + 1)
    if more is not False and rng.random() < 0.6:
        for name in rng.sample(["w1", "abx", "ac", "é2"], rng.randrange(1, 3)):
            out.setdefault(name, value_of(rng, more, root, depth + 1))
    return out


def changed(rng, value):
    """The value with one change somewhere; what becomes of its validity is for the validator to say."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        out = dict(value)
        what = rng.randrange(4)
        if what == 0:
            del out[key]
        elif what == 1:
            out["extra" + key] = anything(rng)
        else:
            out[key] = changed(rng, value[key])
        return out
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        what = rng.randrange(3)
        if what == 0:
            return value[:at] + value[at + 1 :]
        if what == 1:
            return value + [value[at]]
        return value[:at] + [changed(rng, value[at])] + value[at + 1 :]
    if isinstance(value, bool) or value is None:
        return anything(rng)
    if isinstance(value, (int, float)):
        return rng.choice([value + 1, value - 1, -value, value * 100, value + 0.5, str(value), value - 0.001])
    if isinstance(value, str):
        return rng.choice([value + "x", value[1:], value + "-", value[:-1] + "Q", value.upper(), value * 2, [value]])
    return anything(rng)


def has_order(old, new):
    """Whether a change kept the spelling that is promised: only removed or replaced parts."""
    if isinstance(old, dict) and isinstance(new, dict):
        return list(new) == [k for k in old if k in new] and all(has_order(old[k], new[k]) for k in new)
    if isinstance(old, list) and isinstance(new, list):
        return all(has_order(a, b) for a, b in zip(old, new))
    return not isinstance(new, (dict, list)) and not isinstance(new, float)


def texts_of(rng, schema):
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    valid, invalid = set(), set()
    for _ in range(60):
        value = value_of(rng, schema, schema)
        spelled = [json.dumps(value, ensure_ascii=False, separators=(",", ":")), json.dumps(value, ensure_ascii=False)]
        if validator.is_valid(value):
            valid.add(rng.choice(spelled + [json.dumps(value, ensure_ascii=False, indent=2)]))
        other = changed(rng, value)
        text = json.dumps(other, ensure_ascii=False, separators=(",", ":"))
        if not validator.is_valid(other):
            invalid.add(text)
        elif has_order(value, other) and "format" not in str(schema):  # the validator knows formats loosely
            valid.add(text)
    assert valid, schema
    order = lambda texts: sorted(texts, key=lambda t: (len(t), t))
    pick = lambda texts, n: order(rng.sample(order(texts), min(n, len(texts))))
    return pick(valid, 8), pick(invalid, 10)


REGEXES = {
    "[a-c]+x?": "abcx", "(ab|cd)*": "abcd", "a{2,4}": "ab", "(a|b){3}": "ab", "\\d+(\\.\\d+)?": "01.9", "[^ab]*": "abc\n",
    ".": "a\né", "\\w+\\W\\w+": "a_ !", "\\s*x\\s*": " \tx\n", "(?:a(?:b(?:c)?)?)?": "abc", "a|ab|abc": "abc",
    "(?P<year>\\d{4})-\\d\\d": "01-9", "[\\]\\-x]+": "]-x", "[]a]+": "]a", "a{,2}b": "ab", "x{2,}": "x", "\\x41\\u0042?": "AB",
    "(a*)*b": "ab", "(a|aa)+": "a", "((a{0,2}){0,2}){2}": "a", "^ab$": "ab", "^a": "ab", "[+*?.]+": "+*?.a", "a+?b": "ab",
    "é|漢+": "é漢", "[à-ü]+": "éaü", "\\$\\d+": "$1", "\\.\\/\\\\": "./\\", "{a}": "{a}", "a{x}": "a{x}", "[\\w.]+@\\w+": "a.@", "\\D\\S": "1a ",
    "[^\\W]x": "ax-", "(?:)": "a", "": "a", "a||b": "ab", "[a\\-z]+": "a-zb", "[\\d-]+": "1-2a", "[$-]+": "$-a",
}  # fmt: skip


def regex_cases(rng, pattern, alphabet):
    matcher = re.compile(pattern, re.ASCII)
    texts = {""}
    for _ in range(400):
        texts.add("".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 8))))
    accepted = sorted(t for t in texts if matcher.fullmatch(t))
    rejected = sorted(t for t in texts if not matcher.fullmatch(t))
    pick = lambda list_, n: sorted(rng.sample(list_, min(n, len(list_))))
    return {"pattern": pattern, "accepted": pick(accepted, 8), "rejected": pick(rejected, 8)}


def main():
    rng = random.Random(5)
    OUT.mkdir(exist_ok=True)
    schemas = HAND_MADE + [random_schema(rng, 3) for _ in range(80)]
    cases = []
    for schema in schemas:
        Draft202012Validator.check_schema(schema)
        try:
            valid, invalid = texts_of(rng, schema)
        except AssertionError:
            continue  # random bounds that exclude each other
        cases.append({"schema": schema, "valid": valid, "invalid": invalid})
    write = lambda name, rows: (OUT / name).write_text(
        "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"
    )
    write("schemas.json", cases)
    write("regexes.json", [regex_cases(rng, pattern, alphabet) for pattern, alphabet in REGEXES.items()])
    print(len(cases), "schemas", sum(len(c["valid"]) for c in cases), "valid", sum(len(c["invalid"]) for c in cases), "invalid")


if __name__ == "__main__":
    main()
