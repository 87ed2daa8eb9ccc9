"""Talks to a running `moebius serve` through OpenAI's own client and checks what comes back.

Needs: pip install openai==3.54.0
Run:   build/moebius serve -m tests/golden/models/deepseek_v3_tiny --api-key secret &
       python tests/clients/openai_client.py --url http://127.0.0.1:8080/v1 --key secret

The client parses every answer into its typed models; this script re-validates them strictly, so that a missing or
mistyped field fails. Exits with 1 and a line for every mismatch.
"""

import argparse
import sys

import openai
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

failures = []


def check(condition, what):
    if not condition:
        failures.append(what)
        print(f"MISMATCH: {what}", file=sys.stderr)


def valid(kind, value, what):
    """Whether the object satisfies OpenAI's type, which the client itself does not insist on."""
    try:
        kind.model_validate(value.to_dict())
    except Exception as error:  # pydantic.ValidationError
        check(False, f"{what}: {error}")


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
    check_error(openai.BadRequestError, "unsupported_parameter", chat(response_format={"type": "json_object"}))
    too_long = [{"role": "user", "content": "word " * 100_000}]
    check_error(openai.BadRequestError, "context_length_exceeded", chat(messages=too_long))
    if key:
        stranger = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
        check_error(openai.AuthenticationError, "invalid_api_key", lambda: stranger.models.list())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--key", default="", help="one of the server's keys; empty: it needs none")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key=args.key or "none", max_retries=0)
    model = check_models(client)
    first = check_whole(client, model)
    check_conversation(client, model, first)
    check_logprobs(client, model)
    check_errors(client, model, args.url, args.key)
    print(f"{len(failures)} mismatches")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
