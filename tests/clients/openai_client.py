"""Talks to a running `moebius serve` through OpenAI's own client and checks what comes back.

Needs: pip install openai==3.54.0 jsonschema==4.26.0
Run:   build/moebius serve -m tests/golden/models/deepseek_v3_tiny --api-key secret &
       python tests/clients/openai_client.py --url http://127.0.0.1:8080/v1 --key secret
       With pebble (build/moebius serve) also --tools, which checks calls of its calculator and structured answers.

The client parses every answer into its typed models; this script re-validates them strictly, so that a missing or
mistyped field fails. Exits with 1 and a line for every mismatch.
"""

import argparse
import enum
import json
import re
import sys

import jsonschema
import openai
import pydantic
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from checks import check, failures, valid


def check_models(client):
    models = client.models.list().data
    check(len(models) >= 1, "no model listed")
    valid(Model, models[0], "model")
    check(client.models.retrieve(models[0].id).id == models[0].id, "model by id")
    return models[0].id


def check_whole(client, model):
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], temperature=0, max_completion_tokens=12
    )
    valid(ChatCompletion, answer, "chat completion")
    usage = answer.usage
    check(usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, "usage adds up")
    check(1 <= usage.completion_tokens <= 12, "completion_tokens")
    check(usage.prompt_tokens_details.cached_tokens >= 0, "cached_tokens")
    check(answer.choices[0].finish_reason in ("stop", "length"), "finish_reason")
    check(answer.choices[0].message.role == "assistant", "role")
    return answer.choices[0].message.content


def stream_turn(client, model, messages):
    stream = client.chat.completions.create(
        model=model,
        messages=messages,
        temperature=0,
        max_tokens=12,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, finish, usage, ids, roles = "", None, None, set(), []
    for chunk in stream:
        valid(ChatCompletionChunk, chunk, "chunk")
        ids.add(chunk.id)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            roles.append(choice.delta.role)
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    check(len(ids) == 1, "one id for all chunks")
    check(roles[:1] == ["assistant"], "the first delta has the role")
    check(finish in ("stop", "length"), "streamed finish_reason")
    check(usage is not None and usage.completion_tokens > 0, "streamed usage")
    return text, usage


def check_conversation(client, model, first):
    messages = [{"role": "user", "content": "Hello"}]
    text, _ = stream_turn(client, model, messages)
    check(text == first, f"streamed {text!r}, whole {first!r}")
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
    _, usage = stream_turn(client, model, messages)
    check(usage.prompt_tokens_details.cached_tokens > 0, "the second turn re-uses the first")


def check_logprobs(client, model):
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Hello"}],
        temperature=0,
        max_tokens=5,
        logprobs=True,
        top_logprobs=4,
        n=2,
    )
    valid(ChatCompletion, answer, "chat completion with logprobs")
    check(len(answer.choices) == 2, "n")
    for choice in answer.choices:
        for token in choice.logprobs.content:
            check(len(token.top_logprobs) == 4, "top_logprobs")
            check(token.logprob <= 0 and token.top_logprobs[0].logprob == token.logprob, "greedy logprob")
    plain = client.completions.create(model=model, prompt=["One", "Two"], max_tokens=4, logprobs=2, temperature=0)
    valid(Completion, plain, "completion")
    check(len(plain.choices) == 2, "two prompts, two choices")
    check(len(plain.choices[0].logprobs.tokens) == len(plain.choices[0].logprobs.text_offset), "logprob arrays")
    pieces = client.completions.create(model=model, prompt="One", max_tokens=4, temperature=0, stream=True)
    check("".join(c.choices[0].text for c in pieces) == plain.choices[0].text, "streamed completion")


def check_embeddings(client, model):
    answer = client.embeddings.create(model=model, input=["Hello", "Hello there"])  # as base64, unless told otherwise
    valid(CreateEmbeddingResponse, answer, "embeddings")
    check(len(answer.data) == 2 and answer.usage.total_tokens > 1, "two embeddings")
    for embedding in answer.data:
        check(abs(sum(x * x for x in embedding.embedding) - 1) < 1e-5, "of length one")
    plain = client.embeddings.create(model=model, input="Hello", encoding_format="float").data[0].embedding
    # Float formats may sum in another order beside another input.
    check(max(abs(a - b) for a, b in zip(plain, answer.data[0].embedding)) < 1e-4, "as floats and as base64")


def check_adapter(client, model, adapter, first):
    listed = {m.id: m for m in client.models.list().data}
    check(adapter in listed and getattr(listed[adapter], "parent", None) == model, "the adapter is a model with a parent")
    messages = [{"role": "user", "content": "Hello"}]
    ask = dict(messages=messages, temperature=0, max_completion_tokens=12)
    by_name = client.chat.completions.create(model=adapter, **ask)
    check(by_name.model == adapter, "the answer bears the adapter's name")
    by_field = client.chat.completions.create(model=model, extra_body={"adapter": adapter}, **ask)
    check(by_field.choices[0].message.content == by_name.choices[0].message.content, "chosen by `adapter`")
    plain = client.chat.completions.create(model=model, **ask)
    check(plain.choices[0].message.content == first, "the model itself answers as before")


def check_error(expected, code, call):
    try:
        call()
    except expected as error:
        check(error.code == code, f"{expected.__name__} has code {error.code}, not {code}")
        check(isinstance(error.body, dict) and "message" in error.body, f"{expected.__name__} has a body")
    except Exception as error:
        check(False, f"{type(error).__name__} instead of {expected.__name__}")
    else:
        check(False, f"no {expected.__name__}")


def check_errors(client, model, url, key):
    def chat(**fields):
        return lambda: client.chat.completions.create(
            **{"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, **fields}
        )

    check_error(openai.NotFoundError, "model_not_found", chat(model="no-such-model"))
    check_error(openai.NotFoundError, "model_not_found", lambda: client.models.retrieve("no-such-model"))
    check_error(openai.BadRequestError, None, chat(temperature=-1))
    check_error(openai.BadRequestError, None, chat(messages=[]))
    check_error(openai.BadRequestError, "unsupported_parameter", chat(modalities=["text", "audio"]))
    never = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}
    check_error(openai.BadRequestError, "unsupported_constraint", chat(response_format=never))
    too_long = [{"role": "user", "content": "word " * 100_000}]
    check_error(openai.BadRequestError, "context_length_exceeded", chat(messages=too_long))
    if key:
        stranger = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
        check_error(openai.AuthenticationError, "invalid_api_key", lambda: stranger.models.list())


CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluates an expression with + - * / and parentheses.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}


def check_call(client, model):
    """The model calls the calculator by itself, gets the result and answers with it."""
    messages = [{"role": "user", "content": "What is 4567 * 89?"}]
    ask = dict(model=model, tools=[CALCULATOR], temperature=0, max_tokens=100)
    first = client.chat.completions.create(messages=messages, **ask)
    valid(ChatCompletion, first, "a call")
    choice = first.choices[0]
    check(choice.finish_reason == "tool_calls" and choice.message.content is None, f"a call alone: {choice}")
    call = choice.message.tool_calls[0]
    arguments = json.loads(call.function.arguments)
    check(call.function.name == "calculator" and arguments == {"expression": "4567 * 89"}, f"the call is {call}")
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": str(eval(arguments["expression"]))}]
    last = client.chat.completions.create(messages=messages, **ask)
    check("406463" in (last.choices[0].message.content or ""), f"the answer is {last.choices[0].message}")
    check(last.usage.prompt_tokens_details.cached_tokens > 0, "the turn after a call re-uses the one before")
    return call.function.arguments


def check_streamed_call(client, model, expected):
    ask = dict(model=model, tools=[CALCULATOR], temperature=0, max_tokens=100)
    messages = [{"role": "user", "content": "What is 4567 * 89?"}]
    names, text, pieces = [], "", 0
    for chunk in client.chat.completions.create(messages=messages, stream=True, **ask):
        valid(ChatCompletionChunk, chunk, "chunk of a call")
        for piece in chunk.choices[0].delta.tool_calls or []:
            pieces += 1
            check(piece.index == 0 and (piece.id is not None) == (piece.function.name is not None), f"a piece: {piece}")
            names += [piece.function.name] if piece.function.name else []
            text += piece.function.arguments or ""
    check(names == ["calculator"] and text == expected and pieces > 2, f"streamed {names} {text!r} in {pieces} pieces")
    with client.chat.completions.stream(messages=messages, **ask) as stream:  # the client's own accumulator
        for _ in stream:
            pass
        final = stream.get_final_completion().choices[0]
    check(final.message.tool_calls[0].function.arguments == expected, f"accumulated {final}")


def check_forced_call(client, model):
    timer = {"type": "object", "properties": {"minutes": {"type": "integer", "minimum": 1, "maximum": 60}}, "required": ["minutes"],
             "additionalProperties": False}  # fmt: skip
    tools = [CALCULATOR, {"type": "function", "function": {"name": "set_timer", "strict": True, "parameters": timer}}]
    messages = [{"role": "user", "content": "Sort 3, 1, 2."}]
    for choice in ("required", {"type": "function", "function": {"name": "set_timer"}}):
        answer = client.chat.completions.create(
            model=model, messages=messages, tools=tools, tool_choice=choice, parallel_tool_calls=False, max_tokens=100
        )
        valid(ChatCompletion, answer, "a forced call")
        calls = answer.choices[0].message.tool_calls or []
        check(len(calls) == 1, f"one call, as {choice} demands: {answer.choices[0]}")
        arguments = json.loads(calls[0].function.arguments)
        if calls[0].function.name == "set_timer":
            jsonschema.validate(arguments, timer)
        check(choice == "required" or calls[0].function.name == "set_timer", f"called {calls[0].function.name}")
    plain = client.chat.completions.create(model=model, messages=messages, tools=tools, tool_choice="none", max_tokens=50)
    check(not plain.choices[0].message.tool_calls and plain.choices[0].message.content, "no call where none may come")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Thing(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    colour: Colour
    sizes: list[int] = pydantic.Field(min_length=1, max_length=3)
    parent: "Thing | None"


def check_structured(client, model):
    messages = [{"role": "user", "content": "What is 47 + 85?"}]
    for seed in range(3):
        parsed = client.chat.completions.parse(
            model=model, messages=messages, response_format=Thing, temperature=1, seed=seed, max_tokens=400
        )
        thing = parsed.choices[0].message.parsed
        check(isinstance(thing, Thing), f"a Thing: {parsed.choices[0]}")
    schema = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "sum", "strict": True, "schema": schema}}
    ask = dict(model=model, messages=messages, temperature=0, max_tokens=60)
    text = client.chat.completions.create(response_format=form, **ask).choices[0].message.content
    jsonschema.validate(json.loads(text), schema)
    chunks = client.chat.completions.create(response_format=form, stream=True, **ask)
    check("".join(c.choices[0].delta.content or "" for c in chunks) == text, "streamed and whole structured answers agree")
    free = client.chat.completions.create(response_format={"type": "json_object"}, **{**ask, "max_tokens": 300})
    done = free.choices[0].finish_reason == "stop"
    check(not done or isinstance(json.loads(free.choices[0].message.content), dict), f"an object: {free.choices[0]}")
    extra = lambda **fields: client.chat.completions.create(extra_body=fields, **ask).choices[0].message.content
    check(extra(guided_choice=["132", "133"]) == "132", "a choice that the model knows")
    check(re.fullmatch("Answer: [0-9]{3}", extra(structured_outputs={"regex": "Answer: [0-9]{3}"})), "a regular expression")
    check(extra(grammar='root ::= "The sum is " [0-9]+ "."').startswith("The sum is "), "a grammar")
    return text


def check_hostile(client, model):
    deep = {"type": "integer"}
    for _ in range(20):
        deep = {"type": "array", "items": deep}
    bomb = {"$ref": "#/$defs/d30", "$defs": {"d0": {"type": "string"}}}
    for i in range(1, 31):
        before = {"$ref": f"#/$defs/d{i - 1}"}
        bomb["$defs"][f"d{i}"] = {"anyOf": [before, {"type": "array", "items": before}, {"type": "object", "additionalProperties": before}]}
    for fields in (
        {"guided_json": deep},
        {"guided_json": bomb},
        {"guided_regex": "(((a{1,1000}){1,1000}){1,1000}){1,1000}"},
        {"grammar": "root ::= " + "(" * 50_000},
        {"grammar": "root ::= root"},
    ):
        try:
            client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=5, extra_body=fields
            )
        except openai.BadRequestError as error:
            check(error.code == "unsupported_constraint", f"a hostile constraint has code {error.code}")
    check(client.models.list().data, "the server goes on")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--key", default="", help="one of the server's keys; empty: it needs none")
    parser.add_argument("--adapter", help="the name of an adapter that the server offers (--lora)")
    parser.add_argument("--tools", action="store_true", help="the server has pebble, which calls a calculator")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key=args.key or "none", max_retries=0)
    model = check_models(client)
    first = check_whole(client, model)
    check_conversation(client, model, first)
    check_logprobs(client, model)
    check_embeddings(client, model)
    if args.adapter:
        check_adapter(client, model, args.adapter, first)
    check_errors(client, model, args.url, args.key)
    check_hostile(client, model)
    if args.tools:
        arguments = check_call(client, model)
        check_streamed_call(client, model, arguments)
        check_forced_call(client, model)
        print("calculator called with", arguments, "and a structured answer", check_structured(client, model))
    print(f"{len(failures)} mismatches")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
