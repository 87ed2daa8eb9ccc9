"""Writes models/jinja/unicode_tables.cpp from the tables of the running Python (3.11: Unicode 14).

    python3 tests/golden/make_unicode_tables.py > models/jinja/unicode_tables.cpp
"""
import sys

POINTS = [c for c in range(sys.maxunicode + 1) if not 0xD800 <= c < 0xE000]


def ranges(test):
    found = []
    for c in POINTS:
        if not test(chr(c)):
            continue
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def case_ranges(change):
    found = []
    for c in POINTS:
        to = change(chr(c))
        if len(to) != 1 or to == chr(c):
            continue
        delta = ord(to) - c
        last = found[-1] if found else None
        if last and last[3] == delta and (
            (last[0] == last[1] and c - last[1] <= 2) or (last[0] != last[1] and c - last[1] == last[2])
        ):
            last[2] = c - last[1]
            last[1] = c
        else:
            found.append([c, c, 1, delta])
    return found


def literal(text):
    return '"' + "".join(f"\\x{b:02x}" for b in text.encode()) + '"'


def emit(name, kind, rows):
    print(f"constexpr {kind} k{name}[] = {{")
    line = "   "
    for row in rows:
        if len(line) + len(row) + 2 > 108:
            print(line)
            line = "   "
        line += f" {row},"
    print(line)
    print("};\n")


def main():
    chars = [
        ("Alpha", str.isalpha),
        ("Numeric", lambda c: c.isalnum() and not c.isalpha()),
        ("Decimal", str.isdecimal),
        ("Unprintable", lambda c: not c.isprintable()),
    ]
    cases = [("Upper", str.upper), ("Lower", str.lower)]
    specials = [
        ("UpperSpecial", lambda c: c.upper() if len(c.upper()) > 1 else None),
        ("TitleSpecial", lambda c: c.title() if c.title() != c.upper() else None),
    ]
    print("// Written by tests/golden/make_unicode_tables.py; do not edit.")
    print("// clang-format off")
    print('#include "models/jinja/unicode_tables.h"\n')
    print("namespace moebius::jinja {\nnamespace {\n")
    for name, test in chars:
        emit(name, "CharRange", [f"{{0x{a:x}, 0x{b:x}}}" for a, b in ranges(test)])
    for name, change in cases:
        rows = case_ranges(change)
        emit(name, "CaseRange", [f"{{0x{a:x}, 0x{b:x}, {s}, {d}}}" for a, b, s, d in rows])
    for name, change in specials:
        rows = [f"{{0x{c:x}, {literal(change(chr(c)))}}}" for c in POINTS if change(chr(c))]
        emit(name, "CaseSpecial", rows)
    print("}  // namespace\n")
    for name, table, kind in [
        ("alpha_ranges", "Alpha", "CharRange"),
        ("numeric_ranges", "Numeric", "CharRange"),
        ("decimal_ranges", "Decimal", "CharRange"),
        ("unprintable_ranges", "Unprintable", "CharRange"),
        ("upper_ranges", "Upper", "CaseRange"),
        ("lower_ranges", "Lower", "CaseRange"),
        ("upper_specials", "UpperSpecial", "CaseSpecial"),
        ("title_specials", "TitleSpecial", "CaseSpecial"),
    ]:
        print(f"std::span<const {kind}> {name}() {{ return k{table}; }}")
    print("\n}  // namespace moebius::jinja")


main()
