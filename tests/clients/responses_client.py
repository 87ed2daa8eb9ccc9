"""Talks to the /v1/responses of a running `moebius serve` through OpenAI's own client and checks what comes back.

Needs: pip install openai==3.54.0
Run:   build/moebius serve --api-key secret &
       python tests/clients/responses_client.py --url http://127.0.0.1:8080/v1 --key secret

The server must have pebble. Responses, items and events are re-validated against the client's types. Exits with 1 and
a line for every mismatch.
"""

import argparse
import json
import sys
import time

import openai
import pydantic
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from checks import check, failures, valid


QUESTION = "What is 12 + 30?"


def check_whole(client, model):
    answer = client.responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=60)
    valid(Response, answer, "response")
    check(answer.status == "completed" and answer.output_text, f"a completed answer: {answer}")
    usage = answer.usage
    check(usage.total_tokens == usage.input_tokens + usage.output_tokens, "usage adds up")
    count = client.responses.input_tokens.count(model=model, input=QUESTION)
    check(count.input_tokens == usage.input_tokens, "the count of input tokens is the usage")
    cut = client.responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=1)
    check((cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens"), f"a cut answer: {cut}")
    valid(Response, cut, "a cut response")
    probable = client.responses.create(
        model=model, input=QUESTION, temperature=0, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    valid(Response, probable, "a response with logprobs")
    logprobs = probable.output[0].content[0].logprobs
    check(logprobs and all(len(token.top_logprobs) == 2 for token in logprobs), "logprobs")
    check("".join(token.token for token in logprobs) == probable.output_text, "logprobs of all tokens")
    return answer


def check_store(client, model, first):
    kept = client.responses.retrieve(first.id)
    check(kept.to_dict() == first.to_dict(), "a response that is asked for again")
    items = client.responses.input_items.list(first.id)
    valid(ResponseItemList, items, "input items")
    check([item.content[0].text for item in items] == [QUESTION], "the items of the input")
    second = client.responses.create(
        model=model, input=[{"role": "user", "content": "What is 1 + 2?"}], previous_response_id=first.id, temperature=0
    )
    check(second.previous_response_id == first.id, "previous_response_id")
    check(second.usage.input_tokens > first.usage.total_tokens, "the second answer sees the first")
    check(second.usage.input_tokens_details.cached_tokens > 0, "the second answer re-uses the first")
    client.responses.delete(first.id)
    for call in (
        lambda: client.responses.retrieve(first.id),
        lambda: client.responses.input_items.list(first.id),
        lambda: client.responses.delete(first.id),
    ):
        try:
            call()
            check(False, "a deleted response is there")
        except openai.NotFoundError as error:
            check(error.code == "response_not_found", f"code {error.code}")


def check_stream(client, model, expected):
    ask = dict(model=model, input=QUESTION, temperature=0, max_output_tokens=60)
    types, numbers = [], []
    for event in client.responses.create(stream=True, **ask):
        valid(ResponseStreamEvent, event, event.type)
        types.append(event.type)
        numbers.append(event.sequence_number)
    check(numbers == list(range(len(numbers))), "sequence numbers")
    check(types[0] == "response.created" and types[-1] == "response.completed", f"events: {types}")
    with client.responses.stream(**ask) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    check(text == expected == final.output_text, f"streamed {text!r}, whole {expected!r}")


CALCULATOR = {
    "type": "function",
    "name": "calculator",
    "description": "Evaluates an expression with + - * / and parentheses.",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    "strict": False,
}


def check_tools(client, model):
    """The model calls the calculator by itself, gets the result and answers with it; and when it is forced to."""
    ask = dict(model=model, temperature=0, max_output_tokens=100, tools=[CALCULATOR])
    first = client.responses.create(input="What is 4567 * 89?", **ask)
    valid(Response, first, "a call")
    call = first.output[-1]
    check(call.type == "function_call", f"a call: {first.output}")
    arguments = json.loads(call.arguments)
    check(arguments == {"expression": "4567 * 89"}, f"the call is {call}")
    with client.responses.stream(input="What is 4567 * 89?", **ask) as stream:
        streamed = stream.get_final_response().output[-1]
    check(streamed.arguments == call.arguments, f"the streamed call is {streamed}")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": str(eval(arguments["expression"]))}
    last = client.responses.create(input=[result], previous_response_id=first.id, **ask)
    check("406463" in last.output_text, f"the answer is {last.output}")
    by_hand = [{"role": "user", "content": "What is 4567 * 89?"}] + [item.to_dict() for item in first.output] + [result]
    check(client.responses.create(input=by_hand, store=False, **ask).output_text == last.output_text, "items by hand")
    forced = client.responses.create(input="Hello", tool_choice={"type": "function", "name": "calculator"}, **{**ask, "max_output_tokens": 300})
    check(forced.output[0].type == "function_call", f"a forced call: {forced.output}")


class Sum(pydantic.BaseModel):
    answer: int


def check_structured(client, model):
    parsed = client.responses.parse(model=model, input=QUESTION, text_format=Sum, temperature=0, max_output_tokens=60)
    check(isinstance(parsed.output_parsed, Sum), f"a Sum: {parsed.output}")
    free = client.responses.create(
        model=model, input=QUESTION, text={"format": {"type": "json_object"}}, temperature=0, max_output_tokens=300
    )
    check(free.status != "completed" or isinstance(json.loads(free.output_text), dict), f"an object: {free.output}")


def check_background(client, model, expected):
    begun = client.responses.create(model=model, input=QUESTION, temperature=0, max_output_tokens=60, background=True)
    valid(Response, begun, "a response in the background")
    for _ in range(200):
        begun = client.responses.retrieve(begun.id)
        if begun.status not in ("queued", "in_progress"):
            break
        time.sleep(0.05)
    check((begun.status, begun.output_text) == ("completed", expected), f"in the background: {begun}")
    long = dict(model=model, input="Tell me a story", background=True, temperature=1, extra_body={"ignore_eos": True})
    first, second = client.responses.create(**long), client.responses.create(**long)
    cancelled = client.responses.cancel(second.id)
    valid(Response, cancelled, "a cancelled response")
    check(cancelled.status in ("cancelled", "completed"), f"cancelled: {cancelled.status}")
    client.responses.delete(first.id)


def check_errors(client, model):
    def ask(**fields):
        return lambda: client.responses.create(**{"model": model, "input": "Hi", "max_output_tokens": 1, **fields})

    for expected, code, call in (
        (openai.NotFoundError, "model_not_found", ask(model="no-such-model")),
        (openai.BadRequestError, "previous_response_not_found", ask(previous_response_id="resp_x")),
        (openai.BadRequestError, "unsupported_parameter", ask(conversation="conv_x")),
        (openai.BadRequestError, "unsupported_content", ask(input=[{"type": "item_reference", "id": "x"}])),
        (openai.BadRequestError, "context_length_exceeded", ask(input="word " * 100_000)),
    ):
        try:
            call()
            check(False, f"no {code}")
        except expected as error:
            check(error.code == code, f"code {error.code}, not {code}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--key", default="", help="one of the server's keys; empty: it needs none")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key=args.key or "none", max_retries=0)
    model = client.models.list().data[0].id
    first = check_whole(client, model)
    check_stream(client, model, first.output_text)
    check_background(client, model, first.output_text)
    check_store(client, model, first)
    check_tools(client, model)
    check_structured(client, model)
    check_errors(client, model)
    print(f"{len(failures)} mismatches")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
