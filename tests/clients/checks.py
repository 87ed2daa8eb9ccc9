"""What the scripts of this folder share: mismatches, and objects held to a client's own types."""

import sys

failures = []


def check(condition, what):
    if not condition:
        failures.append(what)
        print(f"MISMATCH: {what}", file=sys.stderr)


def valid(kind, value, what):
    """Whether the object satisfies the client's type, which the client itself does not insist on."""
    import pydantic  # that the client brings; the page's script does without both

    try:
        pydantic.TypeAdapter(kind).validate_python(value.to_dict())
    except Exception as error:  # pydantic.ValidationError
        check(False, f"{what}: {error}")
