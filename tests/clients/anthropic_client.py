"""Talks to a running `moebius serve` through Anthropic's own client and checks what comes back.

Needs: pip install anthropic==2.14.0
Run:   build/moebius serve --api-key secret &
       python tests/clients/anthropic_client.py --url http://127.0.0.1:8080 --key secret

The server must have pebble (or another model that calls a calculator). Every answer and every event is re-validated
strictly against the client's types. Exits with 1 and a line for every mismatch.
"""

import argparse
import json
import sys

import anthropic
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from checks import check, failures, valid

GREEDY = {"temperature": 0}  # a field of the API that the newest client has no argument for


def check_whole(client, model):
    messages = [{"role": "user", "content": "What is 12 + 30?"}]
    answer = client.messages.create(model=model, max_tokens=40, extra_body=GREEDY, messages=messages)
    valid(Message, answer, "message")
    check(answer._request_id is not None and answer._request_id.startswith("req_"), "a request id")
    check(answer.content[0].type == "text" and answer.content[0].text, f"a text: {answer.content}")
    check(answer.stop_reason == "end_turn", f"stop_reason is {answer.stop_reason}")
    count = client.messages.count_tokens(model=model, messages=messages)
    valid(MessageTokensCount, count, "token count")
    usage = answer.usage
    check(count.input_tokens == usage.input_tokens + usage.cache_read_input_tokens, "count_tokens is the usage")
    cut = client.messages.create(model=model, max_tokens=1, extra_body=GREEDY, messages=messages)
    check(cut.stop_reason == "max_tokens", f"a cut answer stops with {cut.stop_reason}")
    text = answer.content[0].text
    stop = client.messages.create(
        model=model, max_tokens=40, extra_body=GREEDY, messages=messages, stop_sequences=[text[-3:]]
    )
    check((stop.stop_reason, stop.stop_sequence) == ("stop_sequence", text[-3:]), f"stop_sequence: {stop}")
    return text


def check_stream(client, model, expected):
    messages = [{"role": "user", "content": "What is 12 + 30?"}]
    raw = client.messages.create(model=model, max_tokens=40, extra_body=GREEDY, messages=messages, stream=True)
    types = []
    for event in raw:
        valid(RawMessageStreamEvent, event, event.type)
        types.append(event.type)
    check(types[0] == "message_start" and types[-2:] == ["message_delta", "message_stop"], f"events: {types}")
    with client.messages.stream(model=model, max_tokens=40, extra_body=GREEDY, messages=messages) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    check(text == expected, f"streamed {text!r}, whole {expected!r}")
    check(final.usage.output_tokens > 0 and final.stop_reason == "end_turn", f"final message: {final}")


CALCULATOR = {
    "name": "calculator",
    "description": "Evaluates an expression with + - * / and parentheses.",
    "input_schema": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
}


def check_tools(client, model):
    """The model calls the calculator by itself, gets the result and answers with it; and when it is forced to."""
    messages = [{"role": "user", "content": "What is 4567 * 89?"}]
    ask = dict(model=model, max_tokens=100, extra_body=GREEDY, tools=[CALCULATOR])
    first = client.messages.create(messages=messages, **ask)
    valid(Message, first, "a call")
    check(first.stop_reason == "tool_use", f"stop_reason is {first.stop_reason}")
    call = first.content[-1]
    check(call.type == "tool_use" and call.input == {"expression": "4567 * 89"}, f"the call is {call}")
    with client.messages.stream(messages=messages, **ask) as stream:
        streamed = stream.get_final_message().content[-1]
    check(streamed.type == "tool_use" and streamed.input == call.input, f"the streamed call is {streamed}")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": str(eval(call.input["expression"]))}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    last = client.messages.create(messages=messages, **ask)
    check("406463" in last.content[0].text, f"the answer is {last.content}")
    forced = client.messages.create(
        model=model,
        max_tokens=200,
        tools=[CALCULATOR],
        extra_body=GREEDY,
        tool_choice={"type": "tool", "name": "calculator"},
        messages=[{"role": "user", "content": "Hello"}],
    )
    check(forced.content[0].type == "tool_use", f"a forced call: {forced.content}")
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"], "additionalProperties": False}
    shaped = client.messages.create(
        model=model,
        max_tokens=60,
        extra_body=GREEDY,
        messages=[{"role": "user", "content": "What is 12 + 30?"}],
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    check(isinstance(json.loads(shaped.content[0].text)["sum"], int), f"a structured answer: {shaped.content}")


def check_error(expected, kind, call):
    try:
        call()
    except expected as error:
        body = error.body if isinstance(error.body, dict) else {}
        check(body.get("type") == "error" and body["error"]["type"] == kind, f"{expected.__name__}: {error.body}")
    except Exception as error:
        check(False, f"{type(error).__name__} instead of {expected.__name__}")
    else:
        check(False, f"no {expected.__name__}")


def check_errors(client, model, url, key):
    def ask(**fields):
        return lambda: client.messages.create(
            **{"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **fields}
        )

    check_error(anthropic.NotFoundError, "not_found_error", ask(model="no-such-model"))
    check_error(anthropic.BadRequestError, "invalid_request_error", ask(messages=[]))
    check_error(anthropic.BadRequestError, "invalid_request_error", ask(extra_body={"temperature": -1}))
    check_error(anthropic.BadRequestError, "invalid_request_error", ask(thinking={"type": "enabled"}))
    too_long = [{"role": "user", "content": "word " * 100_000}]
    check_error(anthropic.BadRequestError, "invalid_request_error", ask(messages=too_long))
    if key:
        stranger = anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0)
        check_error(anthropic.AuthenticationError, "authentication_error", lambda: stranger.models.list())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", default="", help="one of the server's keys; empty: it needs none")
    args = parser.parse_args()
    client = anthropic.Anthropic(base_url=args.url, api_key=args.key or "none", max_retries=0)
    models = client.models.list().data
    valid(anthropic.types.ModelInfo, models[0], "model")
    model = models[0].id
    check(client.models.retrieve(model).id == model, "model by id")
    text = check_whole(client, model)
    check_stream(client, model, text)
    check_tools(client, model)
    check_errors(client, model, args.url, args.key)
    print(f"{len(failures)} mismatches")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
