"""The inputs of make_template_golden.py."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Das Wetter – für \"eine\" Stadt <b>&'\n天気",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city, e.g. Zürich"},
                "days": {"type": "integer", "minimum": 1, "maximum": 14, "default": 3},
                "unit": {"type": "string", "enum": ["°C", "°F"]},
                "deep": {"type": "object", "properties": {"a": {"type": ["number", "null"]}, "b": {}}},
            },
            "required": ["city"],
        },
        "strict": True,
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Time", "parameters": {}}}


def call(name, arguments, index=0):
    return {"id": f"functions.{name}:{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
HELLO = {"role": "user", "content": "Hello"}
HI = {"role": "assistant", "content": "Hi! How can I help?"}
THOUGHT = {"role": "assistant", "content": "<think>\nlet me see…\n</think>\n\nThe answer is 4."}
REASONED = {"role": "assistant", "content": "\nFour.\n", "reasoning_content": "\n2 + 2\n"}
CALLS = {
    "role": "assistant",
    "content": "I look.",
    "tool_calls": [call("get_weather", {"city": "Zürich", "days": 2, "f": 1.5, "ok": None, "l": [1, "ä"]}), call("clock", {}, 1)],
}
CALL_TEXT = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", '{"city": "Basel"}')]}
RESULT = {"role": "tool", "tool_call_id": "functions.get_weather:0", "name": "get_weather", "content": '{"t": 21.5}'}
RESULT2 = {"role": "tool", "tool_call_id": "functions.clock:1", "name": "clock", "content": "12:00 – Mittag"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "text", "text": "this."}]}
IMAGE = {"role": "user", "content": [{"type": "image", "image": "x.png"}, {"type": "text", "text": "What is it?"}]}
UNICODE = {"role": "user", "content": "Grüße 👋🏽 — 你好\u200b <|im_end|> {{ x }}\r\n\ttab \\ \"q\""}
SPACES = {"role": "user", "content": "  padded \n\n"}


def chat(*messages, generate=True, **more):
    return {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": generate,
            "bos_token": "<s>", "eos_token": "</s>", **more}


CONVERSATIONS = {
    "one turn": chat(HELLO),
    "no generation prompt": chat(HELLO, generate=False),
    "system": chat(SYSTEM, HELLO),
    "multi turn": chat(SYSTEM, HELLO, HI, {"role": "user", "content": "More?"}, HI, HELLO),
    "ends with assistant": chat(SYSTEM, HELLO, HI, generate=False),
    "continue final": chat(HELLO, {"role": "assistant", "content": "Once upon", "prefix": True}, generate=False),
    "two systems": chat(SYSTEM, {"role": "system", "content": "Be brief."}, HELLO),
    "system later": chat(HELLO, SYSTEM, HELLO),
    "tools": chat(SYSTEM, HELLO, tools=[WEATHER, CLOCK]),
    "tools no system": chat(HELLO, tools=[WEATHER]),
    "empty tools": chat(HELLO, tools=[]),
    "tool calls": chat(HELLO, CALLS, RESULT, RESULT2, tools=[WEATHER, CLOCK]),
    "tool calls answered": chat(SYSTEM, HELLO, CALLS, RESULT, RESULT2, HI, HELLO, tools=[WEATHER, CLOCK]),
    "tool calls no content": chat(HELLO, {**CALLS, "content": None}, RESULT, tools=[WEATHER]),
    "tool call text": chat(HELLO, CALL_TEXT, RESULT, tools=[WEATHER]),
    "tool call rounds": chat(HELLO, CALL_TEXT, RESULT, CALLS, RESULT, RESULT2, tools=[WEATHER], generate=False),
    "bare function call": chat(HELLO, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"a": True}}]}),
    "tool result without call": chat(HELLO, RESULT),
    "tool result unnamed": chat(HELLO, {"role": "tool", "content": "plain"}),
    "tool result list": chat(HELLO, CALL_TEXT, {"role": "tool", "content": [{"output": "a"}, {"type": "text", "text": "b"}]}),
    "thinking on": chat(HELLO, enable_thinking=True),
    "thinking off": chat(HELLO, enable_thinking=False),
    "deepseek thinking": chat(SYSTEM, HELLO, thinking=True),
    "deepseek prefix thinking": chat(HELLO, {"role": "assistant", "content": "So", "prefix": True}, thinking=True, generate=False),
    "thought in content": chat(HELLO, THOUGHT, HELLO),
    "thought last": chat(HELLO, THOUGHT, generate=False),
    "reasoning content": chat(HELLO, REASONED, HELLO, REASONED, generate=False),
    "reasoning kept": chat(HELLO, REASONED, HELLO, clear_thinking=False),
    "reasoning and calls": chat(HELLO, {**CALLS, "reasoning_content": "hmm"}, RESULT, RESULT2, tools=[WEATHER]),
    "reasoning none": chat(HELLO, {**HI, "reasoning_content": None}),
    "parts": chat(SYSTEM, PARTS),
    "image": chat(IMAGE),
    "assistant parts": chat(HELLO, {"role": "assistant", "content": [{"type": "text", "text": "x"}]}),
    "unicode": chat(SYSTEM, UNICODE, UNICODE),
    "spaces": chat(SPACES, {"role": "assistant", "content": "\n\n trailing  "}, SPACES),
    "empty content": chat({"role": "user", "content": ""}, {"role": "assistant", "content": ""}),
    "no content": chat(HELLO, {"role": "assistant"}),
    "none content": chat({"role": "user", "content": None}),
    "number content": chat({"role": "user", "content": 12}),
    "mapping content": chat({"role": "user", "content": {"text": "x"}}),
    "named user": chat({"role": "user", "name": "alice", "content": "Hi"}),
    "unknown role": chat({"role": "critic", "content": "Hm"}),
    "no role": chat({"content": "Hm"}),
    "tool response as user": chat(HELLO, CALL_TEXT, {"role": "user", "content": "<tool_response>\nx\n</tool_response>"}),
    "assistant first": chat(HI, HELLO),
    "empty": chat(),
    "nothing": {},
    "no variables but messages": {"messages": [HELLO]},
    "message is text": {"messages": ["hello"], "add_generation_prompt": True},
    "messages is text": {"messages": "hi", "add_generation_prompt": True},
    "arguments list": chat(HELLO, {"role": "assistant", "content": "", "tool_calls": [call("f", [1, 2])]}),
    "big numbers": chat(HELLO, {"role": "assistant", "content": "", "tool_calls": [call("f", {"a": 2**63, "b": -(2**63), "c": 1e100, "d": 1e-7, "e": 0.1, "g": 100000.0})]}),
}

VARIABLES = {
    "name": "World",
    "empty": "",
    "none_value": None,
    "yes": True,
    "no": False,
    "n": 7,
    "zero": 0,
    "neg": -3,
    "x": 2.5,
    "text": "  Hello, wörld!\nsecond line\n\n  third\t",
    "words": "the quick brown fox jumps over the lazy dog",
    "umlaut": "ÄÖÜ äöü ß Ǆ ﬁ ΑΣ İ",
    "html": "<a href=\"x\">T&C's</a>",
    "items": [3, 1, 2],
    "nums": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
    "mixed": [1, "two", 3.0, None, True, [4, 5], {"six": 6}],
    "strs": ["banana", "Apple", "cherry", "apple"],
    "nested": {"a": {"b": {"c": [10, 20, {"d": "deep"}]}}},
    "d": {"z": 1, "a": 2, "M": 3, "items": "shadow", "get": 5},
    "people": [
        {"name": "Ann", "age": 31, "role": "user", "tags": ["x", "y"]},
        {"name": "bob", "age": 25, "role": "tool", "tags": []},
        {"name": "Cid", "age": 31, "role": "user"},
        {"name": "Dee", "age": None, "role": "system", "active": True},
    ],
    "tree": [{"v": 1, "kids": [{"v": 2, "kids": []}, {"v": 3, "kids": [{"v": 4, "kids": []}]}]}, {"v": 5, "kids": []}],
    "emoji": "a👋🏽b你c",
    "big": 12345678901234567890,
    "floats": [0.1, 1.0, 1e16, 123456789012345.6, 1e-5, 0.0001, -0.0, 1e22, 3.14159, 1.5e300],
    "control": "q\"b\\s/n\nt\tr\rx\u0001\u007f\u00a0é\u2028😀",
}

SNIPPETS = r'''
{{ name }}
{{ missing }}|{{ missing is defined }}|{{ none_value }}|{{ yes }}|{{ no }}
{{ n + 1 }} {{ n - 10 }} {{ n * 3 }} {{ n / 2 }} {{ n // 2 }} {{ n % 4 }} {{ n ** 2 }}
{{ neg // 2 }} {{ neg % 2 }} {{ neg / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 // -3 }}
{{ x * 2 }} {{ x + 1 }} {{ x // 1 }} {{ x % 1 }} {{ -x // 1 }} {{ -x % 2 }} {{ 5.0 // 0.3 }} {{ 5.5 % -2 }}
{{ 1 / 3 }} {{ 10 / 5 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 2 ** 100 }}
{{ 0.1 + 0.2 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1e16 }} {{ 123456789.0 }}
{{ floats }}
{{ floats | tojson }}
{{ floats | map('string') | join(' ') }}
{{ n / zero }}
{{ n % zero }}
{{ n // zero }}
{{ x / 0 }}
{{ name + 1 }}
{{ 1 + name }}
{{ name + none_value }}
{{ name + missing }}
{{ missing + name }}
{{ name ~ 1 ~ none_value ~ missing ~ yes ~ [1, 'a'] }}
{{ 'ab' * 3 }}|{{ 3 * 'ab' }}|{{ 'ab' * -1 }}|{{ [1, 2] * 2 }}|{{ 'a' * true }}
{{ 'a' * 2.0 }}
{{ 'a' - 'b' }}
{{ [1] + [2, 3] }} {{ (1,) + (2,) }}
{{ [1] + (2,) }}
{{ 'a' 'b' "c" }}
{{ '%s is %d' % ('n', 3) }} {{ '%s' % name }} {{ '%5.2f|%-5s|%05d|%x|%r' % (x, 'a', n, 255, 'q') }} {{ '%d%%' % 5 }}
{{ '%(a)s-%(b)d' % {'a': 'x', 'b': 2} }}
{{ '%s %s' % ('a',) }}
{{ '%s' % ('a', 'b') }}
{{ '%d' % 'a' }}
{{ 1 == 1.0 }} {{ 1 == true }} {{ '1' == 1 }} {{ none == false }} {{ [1, 2] == [1, 2.0] }} {{ {'a': 1} == {'a': 1} }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 >= 2 != 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 < 2.5 }}
{{ 'a' < 1 }}
{{ none < 1 }}
{{ missing < 1 }}
{{ {} < {} }}
{{ 2 in nums }} {{ 'or' in name }} {{ 'a' in d }} {{ 'q' not in d }} {{ 11 not in nums }} {{ '' in '' }} {{ 1 in missing }}
{{ 1 in name }}
{{ 1 in n }}
{{ [] in d }}
{{ not yes }} {{ not missing }} {{ not 0 and 1 }} {{ 0 or 'b' }} {{ 1 and 'c' }} {{ none or missing or 'z' }} {{ [] or {} }}
{{ 'y' if yes else 'n' }} {{ 'y' if no }} {{ 'a' if no else 'b' if no else 'c' }}
{{ ('a' if no) is defined }} {{ ('a' if no) ~ 'x' }}
{{ true and not false }} {{ not 1 in [2] }} {{ not (1 in [1]) }}
{{ items[0] }} {{ items[-1] }} {{ items[5] }} {{ items[true] }} {{ items['0'] }} {{ items.0 }} {{ items[1.0] }}
{{ items[none] }}{{ name[0] }}{{ name[-1] }}{{ name[99] }}{{ emoji[1] }}{{ emoji[3] }}{{ emoji[-1] }}
{{ nums[1:3] }} {{ nums[:-2] }} {{ nums[::-1] }} {{ nums[::3] }} {{ nums[5:1:-2] }} {{ nums[100:] }} {{ nums[-3:] }} {{ nums[:] }}
{{ name[1:3] }} {{ name[::-1] }} {{ emoji[1:4] }} {{ emoji[::-1] }} {{ emoji[::2] }} {{ words[4:9] }} {{ name[-100:2] }}
{{ nums[::0] }}
{{ nums['a':] }}
{{ none_value[1:] }}
{{ missing[1:] }}
{{ d[1:] }}
{{ missing.foo }}
{{ missing['foo'] }}
{{ missing.foo.bar }}
{{ none_value.foo }}|{{ n.foo }}|{{ name.foo }}|{{ name['foo'] }}|{{ items.foo }}|{{ none_value[0] }}
{{ none_value.foo.bar }}
{{ nested.a.b.c[2].d }} {{ nested['a']['b'].c[0] }} {{ nested.a.x }} {{ nested.a.x is defined }}
{{ d.z }} {{ d['z'] }} {{ d.nope }} {{ d['items'] }} {{ d['get'] }} {{ d.get('a') }} {{ d.get('q') }} {{ d.get('q', 'dflt') }} {{ d.get('q', default=1) if false }}
{{ d.items() }} {{ d.keys() }} {{ d.values() }}
{{ d.items() | list }} {{ d.keys() | list }} {{ d | list }} {{ d | length }} {{ d.items() | length }}
{{ d.keys()[0] }}|{{ d.items()[0] }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }}{% if not loop.last %},{% endif %}{% endfor %}
{% for k, v in d | dictsort %}{{ k }}{{ v }} {% endfor %}{{ {'b': 2, 'A': 1} | dictsort }} {{ {'b': 2, 'A': 1} | dictsort(true) }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'a': 2} | dictsort(reverse=true) }}
{% for a, b in [(1, 2), [3, 4], 'xy'] %}{{ a }}{{ b }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a in n %}{% endfor %}
{% for a in none_value %}{% endfor %}
{% for a in missing %}x{% else %}none{% endfor %}
{% for c in emoji %}[{{ c }}]{% endfor %}
{% for i in items %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}
{% for i in items %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {{ loop.cycle('a', 'b') }} {{ loop.changed(i > 1) }};{% endfor %}
{% for i in items %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{{ loop.nope }}{{ loop['index'] }}{% endfor %}{{ loop }}
{% for i in nums if i is odd %}{{ i }}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}
{% for i in nums if i > 100 %}{{ i }}{% else %}empty{% endfor %}
{% for i in nums %}{% if i == 3 %}{% continue %}{% endif %}{% if i == 6 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in [1] %}{% break %}{% else %}E{% endfor %}|{% for i in [1] %}{% continue %}{% else %}E{% endfor %}|{% for i in [1, 2] %}{% if i == 2 %}{% break %}{% endif %}{% else %}E{% endfor %}
{% for i in [1, 2] %}{% for j in [3, 4] %}{{ loop.index }}{{ i }}{{ j }}{% if j == 3 %}{% break %}{% endif %}{% endfor %}{{ loop.index }}{% endfor %}
{% for i in range(3) %}{{ i }}{% endfor %} {{ range(3) }} {{ range(1, 10, 3) | list }} {{ range(5, 0, -2) | list }} {{ range(3)[1] }} {{ range(10)[2:5] }} {{ range(3) | length }} {{ 2 in range(3) }}
{{ range(1000000) }}
{{ range() }}
{{ range('a') }}
{{ range(1, 2, 0) }}
{% for item in tree recursive %}{{ item.v }}{{ loop.depth }}{% if item.kids %}({{ loop(item.kids) }}){% endif %}{% endfor %}
{% set l = [] %}{% for i in items %}{% set l = l + [i] %}{{ l }}{% endfor %}{{ l }}
{% set ns = namespace(total=0) %}{% for i in items %}{% set ns.total = ns.total + i %}{% endfor %}{{ ns.total }} {{ ns }} {{ ns.nope }}
{% set ns = namespace({'a': 1}, b=2) %}{% set ns.a, ns.b = ns.b, ns.a %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}
{% set ns = namespace(_a=1) %}{{ ns._a }}
{% set ns = namespace() %}{% set ns._a = 1 %}
{% set d.x = 1 %}
{% set q.x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, e) = (3, 4) %}{{ c }}{{ e }}{% set t = 1, %}{{ t }}{% set f = () %}{{ f }}
{% set a = 1 %}{% if true %}{% set a = 2 %}{% endif %}{{ a }}{% for i in [1] %}{% set a = 3 %}{{ a }}{% endfor %}{{ a }}
{% set a %}block {{ name }}{% endset %}[{{ a }}]{% set b | upper | trim %}  up {{ name }}  {% endset %}[{{ b }}]
{% set a %}{% set inner = 1 %}{% endset %}{{ inner is defined }}
{% with a = 1, b = n %}{{ a }}{{ b }}{% set a = 9 %}{{ a }}{% endwith %}{{ a is defined }}
{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z is defined }}
{% filter upper | replace('W', 'V') %}hello {{ name }}{% endfilter %}
{% macro m(a, b=2, c=a) %}({{ a }},{{ b }},{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}{{ m(1, c=none) }}
{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}{{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, a=2) }}
{% macro m(a) %}{{ a.b }}{% endmacro %}{{ m() }}
{% macro m(n) %}{{ n }}{% if n > 0 %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(5) }}
{% macro m() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ m() }}{% for i in [1] %}{% set later = 'x' %}{{ m() }}{% endfor %}
{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}inside {{ name }}{% endcall %}
{% macro m(l) %}{% for i in l %}{{ caller(i, loop.index) }}{% endfor %}{% endmacro %}{% call(a, b) m(items) %}<{{ a }}:{{ b }}>{% endcall %}
{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}
{% macro m() %}{% endmacro %}{% call m() %}x{% endcall %}
{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}{{ a is callable }}{{ name is callable }}{{ a.name }}
{% macro m() %}{% set v = 5 %}{{ v }}{% endmacro %}{{ m() }}{{ v is defined }}{{ m() | length }}{{ m() ~ 'x' }}
{% if n > 5 %}a{% elif n > 3 %}b{% else %}c{% endif %}{% if empty %}a{% elif zero %}b{% elif none_value %}c{% else %}d{% endif %}
{% if [] %}1{% endif %}{% if [0] %}2{% endif %}{% if {} %}3{% endif %}{% if 0.0 %}4{% endif %}{% if '0' %}5{% endif %}{% if missing %}6{% endif %}{% if () %}7{% endif %}
{# comment #}a{#- strip -#} b {#+ keep #} c
a  {%- if true -%}  b  {%- endif -%}  c
a {{- ' b ' -}} c
  {% if true %}
  line
  {% endif %}
end
  {%+ if true %}
  line
  {%+ endif +%}
end
x {% if true +%}
y{% endif %}
a{% raw %} {{ not }} {% this %} {# that #}{% endraw %}b
a {%- raw -%}  x  {%- endraw -%} b
    {% raw %}
  keep {{ x }}
    {% endraw %}
end
{{ '{{ x }}' }} {{ "%}" }} {{ '}}' }} {% if '%}' %}ok{% endif %}
{{ {'a': {'b': 1}} }} {{ {'a': {}}}}
{{ "a\nb\t\x41\u00e9\\ \'q\' \"z\" \q \101" }}
{{ 'it''s' }} {{ "dq'sq" }} {{ ['it\'s', "q\"q", 'both\'"', 'a\\b\n\x00\x7f\xa0\u200b\u2028é😀'] }}
{{ mixed }}
{{ mixed | tojson }}
{{ (1,) }} {{ (1, 2) }} {{ () }} {{ [] }} {{ {} }} {{ {1: 'a', 'b': none, 2.5: true, none: (1,)} }} {{ [1, 2,] }} {{ {'a': 1,} }}
{{ {[]: 1} }}
{{ text | trim }}|{{ 'xxhixx' | trim('x') }}|{{ text.strip() }}|{{ text.lstrip() }}|{{ text.rstrip() }}|{{ 'abcba'.strip('ab') }}|{{ 'abcba'.lstrip('a') }}|{{ 'abcba'.rstrip('ba') }}|{{ '\u3000\xa0 x\u2003'.strip() }}|{{ 'x'.strip(none) }}
{{ name | upper }} {{ name | lower }} {{ 'hELLO wORLD' | capitalize }} {{ "foo bar-baz (qux) it's" | title }} {{ "it's they're x2y" .title() }} {{ umlaut | upper }} {{ umlaut | lower }} {{ umlaut | title }} {{ umlaut | capitalize }} {{ umlaut.swapcase() }} {{ umlaut.title() }} {{ 'ﬁx'.capitalize() }} {{ n | upper }}
{{ items | length }} {{ name | count }} {{ emoji | length }} {{ missing | length }} {{ d | length }}
{{ n | length }}
{{ none_value | length }}
{{ missing | default('D') }} {{ none_value | default('D') }} {{ none_value | default('D', true) }} {{ '' | d('E', boolean=true) }} {{ missing | default }}
{{ missing.x | default('D') }}
{{ items | join(', ') }} {{ items | join }} {{ 'abc' | join('-') }} {{ people | join(', ', attribute='name') }} {{ mixed | join('|') }} {{ d | join }} {{ items | join(1) }}
{{ items | first }} {{ items | last }} {{ name | first }} {{ name | last }} {{ [] | first }} {{ [] | last is defined }} {{ d | first }} {{ missing | first }}
{{ n | first }}
{{ items | map('string') | last }}
{{ 'abc' | list }} {{ (1, 2) | list }} {{ missing | list }}
{{ n | list }}
{{ people | map(attribute='name') | list }} {{ people | map(attribute='active') | list }} {{ people | map(attribute='active', default='-') | list }} {{ people[:2] | map(attribute='tags.0') | list }}
{{ people | map(attribute='tags.0') | list }}
{{ strs | map('upper') | join(',') }} {{ strs | map('replace', 'a', 'A') | list }} {{ items | map('string') | map('length') | list }} {{ none_value | map('upper') | list }}
{{ strs | map('nofilter') | list }}
{{ strs | map | list }}
{{ nums | select('even') | list }} {{ nums | reject('even') | list }} {{ nums | select('divisibleby', 3) | list }} {{ nums | select('>', 7) | list }} {{ mixed | select | list }} {{ mixed | reject | list }} {{ strs | select('in', ['apple', 'x']) | list }}
{{ people | selectattr('role', 'equalto', 'user') | map(attribute='name') | list }} {{ people | rejectattr('role', 'eq', 'user') | map(attribute='name') | list }} {{ people | selectattr('active') | list | length }} {{ people | selectattr('active', 'defined') | list | length }} {{ people | rejectattr('age', 'none') | map(attribute='age') | sum }}
{% if [] | select %}truthy{% endif %}{% if items | selectattr('x') | list %}a{% else %}b{% endif %}
{% set g = nums | select('even') %}{{ g | list }}{{ g | list }}{% set h = nums | select('odd') %}{{ h | first }}{{ h | first }}{{ h | list }}
{{ items | select('even') | length }}
{{ (items | select('even'))[0] }}|{{ (items | map('abs')) is sequence }}{{ (items | map('abs')) is iterable }}
{{ 3 in (items | map('abs')) }}
{{ items | sort }} {{ items | sort(reverse=true) }} {{ strs | sort }} {{ strs | sort(case_sensitive=true) }} {{ people | sort(attribute='name') | map(attribute='name') | list }} {{ people[:3] | sort(attribute='age,name') | map(attribute='name') | list }} {{ people[:3] | sort(attribute='age', reverse=true) | map(attribute='name') | list }} {{ 'hello' | sort }} {{ d | sort }}
{{ mixed | sort }}
{{ people | sort(attribute='age') | list }}
{{ strs | unique | list }} {{ strs | unique(case_sensitive=true) | list }} {{ people | unique(attribute='role') | map(attribute='name') | list }} {{ [1, 1.0, true, 2] | unique | list }}
{{ [[1], [1]] | unique | list }}
{{ items | reverse | list }} {{ 'abc' | reverse }} {{ emoji | reverse }} {{ d | reverse | list }} {{ items | map('abs') | reverse }}
{{ nums | sum }} {{ [1.5, 2] | sum }} {{ people[:3] | sum(attribute='age') }} {{ [] | sum }} {{ [1] | sum(start=10) }} {{ [[1], [2]] | sum(start=[]) }}
{{ strs | sum }}
{{ nums | min }} {{ nums | max }} {{ strs | min }} {{ strs | max }} {{ people[:3] | max(attribute='age') }} {{ [] | max }} {{ [1, 2.5] | max }} {{ 'hello' | max }}
{{ mixed | max }}
{{ -5 | abs }} {{ (-5) | abs }} {{ 2.5 | abs }} {{ true | abs }}
{{ name | abs }}
{{ 2.5 | round }} {{ 3.5 | round }} {{ 42.55 | round(1) }} {{ 42.55 | round(1, 'floor') }} {{ 42.51 | round(1, 'ceil') }} {{ 42 | round }} {{ 2.675 | round(2) }} {{ 1234.5 | round(-2) }} {{ 1250 | round(-2) }} {{ -2.5 | round }} {{ 42.1 | round | int }} {{ 42.7 | round(method='floor') }} {{ 7 | round(method='ceil') }}
{{ name | round }}
{{ missing | round }}
{{ '42' | int }} {{ ' 42 ' | int }} {{ '42.9' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ '0x1A' | int(base=16) }} {{ '1_000' | int }} {{ '-5' | int }} {{ 3.9 | int }} {{ -3.9 | int }} {{ true | int }} {{ none | int }} {{ [] | int(default=3) }} {{ 'ff' | int(0, 16) }} {{ '1e3' | int }} {{ 'inf' | int }} {{ '101' | int(base=2) }} {{ '' | int }}
{{ missing | int }}
{{ '1.5' | float }} {{ '1e3' | float }} {{ 'x' | float }} {{ 'x' | float(2.5) }} {{ 3 | float }} {{ none | float }} {{ ' 2.5 ' | float }} {{ 'nan' | float }} {{ '-inf' | float }} {{ '1_0.5' | float }} {{ '.5' | float }} {{ '5.' | float }} {{ '+1' | float }} {{ '0x10' | float }} {{ true | float }}
{{ n | string ~ 'x' }} {{ none_value | string }} {{ [1, 'a'] | string }} {{ x | string }} {{ missing | string }}|
{{ 'aXbXc' | replace('X', '-') }} {{ 'aXbXc' | replace('X', '-', 1) }} {{ 'abc' | replace('', '-') }} {{ 123 | replace(2, 'x') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'abc'.replace('', '.') }} {{ 'a'.replace('', 'x', 1) }} {{ missing | replace('a', 'b') }}|
{{ 'abc'.replace('a', 1) }}
{{ html | escape }} {{ html | e }} {{ html | safe }} {{ html }} {{ html | forceescape }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('> ') }}|{{ 'a\nb\n' | indent(1) }}|{{ '' | indent }}|{{ 'a\r\nb\x0bc' | indent(1) }}|
{{ n | indent }}
{{ missing | indent }}
{{ nums | batch(3) | list }} {{ nums | batch(4, '-') | list }} {{ nums | slice(3) | list }} {{ nums | slice(3, 0) | list }} {{ [] | batch(2) | list }}
{% for g in people | groupby('role') %}{{ g.grouper }}:{{ g.list | map(attribute='name') | join(',') }};{% endfor %}{% for r, l in people | groupby('role') %}{{ r }}{{ l | length }}{% endfor %}
{{ 'abc' | center(9) }}|{{ 'abc' | center(8) }}|{{ 'abc'.center(8, '*') }}|{{ 'abc'.ljust(5) }}|{{ 'abc'.rjust(5, '.') }}|{{ '-7'.zfill(5) }}|{{ 'x'.zfill(3) }}|
{{ words | truncate(20) }} {{ words | truncate(20, true) }} {{ words | truncate(20, false, '…') }} {{ words | truncate(40) }} {{ words | truncate(38, leeway=0) }} {{ words | wordcount }} {{ text | wordcount }}
{{ 'a b/c?d=é&~' | urlencode }} {{ {'a b': 'c/d', 'e': 1} | urlencode }} {{ [('x', 'y z')] | urlencode }}
{{ '%s-%s' | format(1, 'b') }} {{ '%(a)s' | format(a=2) }}
{{ d | items | list }} {{ missing | items | list }}
{{ items | items | list }}
{{ 'abc' | attr('upper') is callable }} {{ d | attr('z') is defined }}
{{ d | tojson }} {{ name | tojson }} {{ none | tojson }} {{ true | tojson }} {{ 1.0 | tojson }} {{ big | tojson }} {{ control | tojson }} {{ (1, 2) | tojson }}
{{ control | tojson(ensure_ascii=true) }} {{ control | tojson(true) }}
{{ nested | tojson(indent=2) }}
{{ mixed | tojson(indent=0) }} {{ {'a': [], 'b': {}} | tojson(indent=1) }} {{ [1, [2]] | tojson(indent='\t') }} {{ nested | tojson(separators=(',', ':')) }} {{ nested | tojson(indent=1, separators=(' ,', ' : ')) }} {{ d | tojson(sort_keys=true) }} {{ {2: 1, 1.5: 2, true: 3, none: 4} | tojson }} {{ [1] | tojson(indent=none) }} {{ [1] | tojson(indent=-1) }}
{{ missing | tojson }}
{{ [missing] | tojson }}
{{ range(3) | tojson }}
{{ d.items() | tojson }}
{{ {(1, 2): 3} | tojson }}
{{ namespace(a=1) | tojson }}
{{ {'a': 1, 2: 3} | tojson(sort_keys=true) }}
{{ n is defined }}{{ missing is undefined }}{{ none_value is none }}{{ name is string }}{{ d is mapping }}{{ items is sequence }}{{ items is iterable }}{{ n is number }}{{ n is integer }}{{ x is float }}{{ yes is boolean }}{{ yes is true }}{{ no is false }}{{ n is odd }}{{ n is even }}{{ n is divisibleby 7 }}{{ n is divisibleby(2) }}
{{ d is sequence }}{{ name is sequence }}{{ name is iterable }}{{ n is iterable }}{{ none is iterable }}{{ d.items() is sequence }}{{ d.items() is iterable }}{{ d.items() is mapping }}{{ missing is sequence }}{{ missing is iterable }}{{ missing is mapping }}{{ missing is string }}{{ missing is callable }}{{ range(2) is sequence }}{{ (1,) is sequence }}{{ namespace() is mapping }}
{{ true is integer }}{{ true is number }}{{ 1 is boolean }}{{ 1 is true }}{{ 0 is false }}{{ none is number }}{{ 1.0 is integer }}{{ 'a' is number }}
{{ 1 is eq 1 }}{{ 1 is equalto(1) }}{{ 1 is ne 2 }}{{ 1 is lt 2 }}{{ 1 is le 1 }}{{ 2 is gt 1 }}{{ 2 is ge 3 }}{{ 1 is in [1, 2] }}{{ 1 is not in [2] }}{{ 'a' is lower }}{{ 'A1' is upper }}{{ 'aB' is lower }}{{ '1' is lower }}{{ 1 is sameas 1 }}{{ 1 is sameas true }}{{ none is sameas none }}{{ 'upper' is filter }}{{ 'nope' is filter }}{{ 'odd' is test }}{{ 1 is greaterthan 0 }}{{ 1 is lessthan 0 }}
{{ 1 is not none and 2 is not string }}{{ not n is none }}{{ n is not defined or true }}
{{ n is nosuchtest }}
{{ n | nosuchfilter }}
{% if false %}{{ n | nosuchfilter }}{% endif %}ok
{{ name is odd }}
{{ missing is odd }}
{{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b '.split() }} {{ ' a  b c '.split(none, 1) }} {{ ' a  b c '.rsplit(none, 1) }} {{ ''.split(',') }} {{ ''.split() }} {{ 'a--b'.split('--')[-1] }} {{ 'abc'.split(sep='b') }} {{ 'a b c'.split(maxsplit=1) }} {{ 'aXbX'.rsplit('X') }}
{{ 'abc'.split('') }}
{{ 'abc'.split(1) }}
{{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('x') }} {{ 'abc'.rpartition('x') }}
{{ name.startswith('Wo') }} {{ name.endswith(('x', 'ld')) }} {{ name.startswith(('a', 'b')) }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.endswith('b', 0, 2) }} {{ 'abc'.startswith('') }} {{ 'abc'.startswith('', 5) }}
{{ name.startswith(1) }}
{{ name.startswith(['W']) }}
{{ name.find('r') }} {{ name.find('z') }} {{ emoji.find('b') }} {{ 'abab'.rfind('b') }} {{ 'abab'.find('a', 1) }} {{ 'abab'.count('ab') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ 'abc'.index('c') }} {{ 'abab'.find('b', -1) }} {{ ''.find('') }} {{ 'abc'.find('c', 0, 2) }}
{{ 'abc'.index('z') }}
{{ 'x'.join(['a', 'b']) }} {{ ','.join('abc') }} {{ ''.join([]) }} {{ '-'.join({'k': 1}) }}
{{ 'x'.join([1]) }}
{{ 'Abc'.isalpha() }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ ' '.isspace() }} {{ 'ab'.islower() }} {{ 'AB'.isupper() }} {{ 'Ab Cd'.istitle() }} {{ ''.isalpha() }} {{ 'äß'.isalpha() }} {{ 'a b'.isidentifier() }} {{ '你好'.isalpha() }} {{ 'é'.isascii() }} {{ '½'.isalnum() }}
{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }} {{ 'x'.removeprefix('y') }}
{{ '{} and {}'.format('a', 1) }} {{ '{1}{0}'.format('a', 'b') }} {{ '{x}:{y.name}'.format(x=1, y=people[0]) }} {{ '{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}|{:x}|{!r}'.format('a', 'b', 'c', 42, 3.14159, 1234567, 255, 'q') }} {{ '{{}}'.format() }} {{ '{0[name]}'.format(people[0]) }} {{ '{:%}'.format(0.5) }} {{ '{:+d} {:e} {:g}'.format(5, 12345.678, 0.00001) }}
{{ '{}'.format() }}
{{ '{a}'.format(b=1) }}
{{ '{'.format() }}
{% set l = [1, 2] %}{{ l.append(3) }}{{ l }}{{ l.pop() }}{{ l.pop(0) }}{{ l }}{{ l.insert(0, 'x') }}{{ l }}{{ l.extend([7, 8]) }}{{ l }}{{ l.index(7) }}{{ l.count(8) }}{{ l.remove('x') }}{{ l }}{{ l.reverse() }}{{ l }}{{ l.copy() }}{{ l.clear() }}{{ l }}
{% set l = [] %}{{ l.pop() }}
{% set l = [] %}{{ l.index(1) }}
{% set a = [1] %}{% set b = a %}{% set _ = b.append(2) %}{{ a }}{% set ns = namespace(l=[]) %}{% for i in items %}{% set _ = ns.l.append(i) %}{% endfor %}{{ ns.l }}
{% set q = {'a': 1} %}{{ q.update({'b': 2}) }}{{ q }}{{ q.pop('a') }}{{ q.pop('z', 9) }}{{ q.setdefault('c', 3) }}{{ q }}{{ q.update(x=1) }}{{ q.copy() }}{{ q.clear() }}{{ q }}
{% set q = {} %}{{ q.pop('a') }}
{{ dict(a=1, b='x') }} {{ dict([('a', 1)]) }} {{ dict({'z': 1}, y=2) }} {{ dict() }}
{% set l = [3, 1] %}{{ l.sort() }}{{ l }}{% set t = (1, 2, 1) %}{{ t.count(1) }}{{ t.index(2) }}
{{ raise_exception('boom: ' ~ name) }}
{% if n > 5 %}{{ raise_exception("n is too large") }}{% endif %}
{{ strftime_now('%Y-%m-%d %H:%M:%S %d %b %B %A %j %%') }}|{{ strftime_now('') }}|{{ strftime_now('%-d') }}
{% generation %}gen {{ name }}{% set g = 1 %}{% endgeneration %}{{ g is defined }}
{{ name.__class__ }}|{{ name.__class__ is defined }}
{{ name.__class__.__mro__ }}
{{ ''['__class__'] }}|{{ d.__init__ }}|{{ items.__len__ }}
{{ d.__init__() }}
{{ name() }}
{{ missing() }}
{{ d.nope() }}
{{ n.x.y }}
{% for i in items %}{% set loop = 1 %}{% endfor %}
{% break %}
{% if true %}
{% endif %}
{% for i in items %}
{% nosuch %}
{{ a b }}
{{ (1 }}
{{ 1 + }}
{{ }}
{% set 1 = 2 %}
{% set true = 2 %}
{{ 'abc }}
{# open
{% raw %} open
{{ a is b is c }}
{{ @ }}
{{ [1, 2 }}
{{ {'a' 1} }}
{{ f(a=1, 2) }}
{{ f(**d, *items) }}
{% macro m(a=1, b) %}{% endmacro %}
{% set a b %}
{% if %}{% endif %}
{% for in items %}{% endfor %}
{% do items.append(1) %}
{{ 5 | string | length + 1 }} {{ -1 | abs }} {{ 1 - -1 }} {{ +5 }} {{ - 5 }} {{ --5 }} {{ not not true }}
{{ 1 if true else 2 ~ 3 }} {{ 'a' ~ 'b' + 'c' }} {{ 2 * 3 ~ 4 }}
{{ 1 + 2 ~ 3 }}
{{ 'a' in 'abc' and 'b' in 'abc' }} {{ 1 == 1 in [true] }} {{ (1, 2) in [(1, 2)] }} {{ [1] in [[1]] }}
{{ f is defined and f(1) }} {{ items|length > 2 and items[2] == 2 }} {{ name|upper == 'WORLD' }} {{ (name|lower)[0] }} {{ name.upper().lower().title() }}
{{ people[0].name }}{{ people[0]['name'] }}{{ people|length }}{{ people[-1].active }}{{ people[1].tags|first }}{{ (people|first).name }}
{{ [1, 2, 3] | map('string') | join(', ') | replace('2', 'two') | upper }} {{ range(5) | select('odd') | map('string') | list }}
{{ true + true }} {{ true * 3 }} {{ false == 0 }} {{ 1.0 == true }} {{ 10 // 3.0 }} {{ 1e308 * 10 }} {{ -1e308 * 10 }} {{ 7.0 % 2 }} {{ 1 / 1 }} {{ 3.0 }} {{ 1e100 }} {{ 5 % 3.5 }}
{{ 10 ** 400.0 }}
{{ big }} {{ big + 1 }} {{ 9223372036854775807 + 1 }} {{ -9223372036854775808 - 1 }}
{{ umlaut.lower() }} {{ 'ΑΣ ΑΣΑ Σ'.lower() }} {{ 'straße'.upper() }} {{ 'ŉ'.upper() }} {{ 'İ'.lower() | length }} {{ 'ά'.upper() }} {{ 'ǆ'.title() }}
{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = i + 10 %}{{ x }}{% endfor %}{{ x }}
{% for x in items %}{% set ns2 = namespace(v=x) %}{{ ns2.v }}{% endfor %}{{ x }}
{% for i in items %}{{ i }}{{ ',' if not loop.last }}{% endfor %}
{%- for i in items -%} {{ i }} {%- endfor -%}
{% for i in items -%}
  {{ i }}
{% endfor %}
tail
{%- if true %}
   indented {{ name }}
{%- endif %}

{{ name }}


  {{ name }}
	{% if true %}tab{% endif %}

  {# comment on its own line #}
after
a{# x #}
b
{% set multi = "line1
line2" %}{{ multi }}
{{ items
   | join(',')
   }}
{{ joiner is defined }}{% set j = joiner('|') %}{% for i in items %}{{ j() }}{{ i }}{% endfor %}
{% print name %}{% print 1, 2 %}
{{ d.items is callable }}
{{ loop.index }}
{% for i in items %}{{ loop.index.x.y }}{% endfor %}
{{ [missing, none, 1.0, 'a'] }} {{ {'k': missing} }} {{ [[]] }} {{ [()] }} {{ [{}] }}
{{ (missing) is defined }} {{ missing == missing2 }} {{ missing == none }} {{ missing != 1 }} {{ [missing] == [none] }}
{{ -missing }}
{{ -name }}
{{ items.append is callable }}
{{ 1.foo }}
{{ items[0].bit }}
{{ f(*items) }}
{% macro v(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ v(*items) }}{{ v(**{'a': 1, 'c': 2}) }}{{ v(1, *[2, 3]) }}
{% macro v(a) %}{{ a }}{% endmacro %}{{ v(a=1, **{'a': 2}) }}
{{ 'a' if missing is defined else 'b' }}{{ missing if missing is defined else 'z' }}
{{ {'role': 'x'}['role'] }} {{ {'a': 1}.a }} {{ {'a': 1}.get('a') }} {{ [1, 2][0] }} {{ 'abc'[1] }} {{ (1, 2)[1] }} {{ "x".upper() }}
{% set g = [1, 'a', 2] | map('abs') %}{{ g | first }}
{{ [1, 'a', 2] | map('abs') | list }}
{% set g = n | map('upper') %}{% set h = n | unique %}{% set i = n | batch(2) %}{% set j = n | items %}lazy
{% for i in [1, 'a'] | map('abs') %}{{ i }}{% break %}{% endfor %}
{% for i in [1, 'a'] | map('abs') %}{{ i }}{% endfor %}
{{ [3, 'x'] | map('abs') | list | length if false else 3 in ([3, 'x'] | map('abs')) }}
{{ floats | truncate(20) | length }} {{ missing | truncate(5) }}|
{{ 'tab' % missing }} {{ 'x' % [1] }} {{ 'x' % {} }}
{{ 'x' % 1 }}
{{ 'x' % 'y' }}
{{ '12' | int(-1, 1) }} {{ 'x' | int(2, -1) }} {{ '0b11' | int(0, 2) }} {{ '012' | int(base=0) }}
{{ -2.5 | round(-1, 'ceil') }} {{ -0.4 | round }} {{ -0.4 | round(0, 'ceil') }}
{% filter length %}abc{% endfilter %}
{% set a | length %}abc{% endset %}{{ a + 1 }}
{{ n is defined(1) }}
{{ name | upper(1) }}
{{ name.upper(1) }}
{{ {} is filter }}
{{ '%x' % 2.5 }}
{{ '%.3s|%10.2e|%+d|% d|%#x|%o|%c%c|%-6d|%06.2f|%g|%i' % ('abcdef', 12345.678, 5, 5, 255, 8, 65, 'z', 42, 3.14159, 1e-10, 7.9) }}
{{ '%*d|%-*d' % (5, 42, 4, 7) }}
{{ '{:,.2f}|{:_}|{:#x}|{:08.3f}|{:<+6}|{:^7}|{:*>4}|{:b}|{:s}|{:10}|{:10}'.format(1234567.891, 1000000, 255, 3.14159, 7, 'mid', 'ab', 5, 'str', 'left', 42) }}
{% set content = '<think>\nabc\n</think>\n\nanswer' %}{{ content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}|{{ content.split('</think>')[-1].lstrip('\n') }}
'''


def split_snippets(text):
    """One snippet a line; what needs several lines stands in MULTILINE."""
    return [line for line in text.split("\n") if line]


MULTILINE = [
    "  {% if true %}\n  line\n  {% endif %}\nend\n",
    "  {%+ if true %}\n  line\n  {%+ endif +%}\nend",
    "x {% if true +%}\ny{% endif %}",
    "    {% raw %}\n  keep {{ x }}\n    {% endraw %}\nend",
    "{% for i in items -%}\n  {{ i }}\n{% endfor %}\ntail\n",
    "{%- if true %}\n   indented {{ name }}\n{%- endif %}\n\n{{ name }}\n\n\n",
    "  {{ name }}\n\t{% if true %}tab{% endif %}\n\n  {# comment on its own line #}\nafter",
    "a{# x #}\nb\n",
    "{% set multi = \"line1\nline2\" %}{{ multi }}",
    "{{ items\n   | join(',')\n   }}\n",
    "a\r\nb\r{{ name }}\r\n",
    "a\n\n",
    "\n",
    "",
    "abc{% raw %}",
    "abc{#",
    "abc{%",
    "abc{{",
    "abc{",
    "{",
    "{% if true %}\n\n{% endif %}\n\nx",
    "  {%- if true -%}  \n  y  {{- name -}}  \n  {%- endif -%}  z",
    "{{ 'a' }}\n  {#- c -#}  \n b",
    "a\n  {%- raw %} x\n{% endraw -%}\n b",
    "{% raw -%}\n  y {{ z }}\n  {%- endraw %}\nq",
    "\u00a0\u2003{% if true %}nbsp{% endif %}",
    "x\n\u3000{%- if true %}wide{% endif %}",
    "{% for m in people %}\n  {% if m.role == 'user' %}\n    {{ m.name }}\n  {% else %}\n    -\n  {% endif %}\n{% endfor %}\n",
    "{% macro f(x) %}\n  [{{ x }}]\n{% endmacro %}\n{{ f(1) }}{{ f(2) }}\n",
    "{% set a %}\n  x\n{% endset %}\n({{ a }})\n",
    "{{ 1 }}{# a #}{# b #}\n{# c #}\n2",
    "{%if true%}{{name}}{%endif%}{{-name-}}{{+ name }}",
]

SNIPPETS = split_snippets(SNIPPETS) + MULTILINE
