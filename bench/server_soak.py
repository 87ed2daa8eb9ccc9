"""Many clients of a running `moebius serve` at once, some of which hang up: every answer is compared with the one that its
request got alone, and the server's memory is watched.

Run:   build/moebius serve --parallel 16 --ctx-size 512 --max-queue 64 &
       python3 bench/server_soak.py --pid $! [--clients 64] [--minutes 10] [--idle 1000]
Prints CSV: answers, hang-ups, refusals (429) and resident memory by the half minute, and with --idle tokens per second of eight
clients without and with so many connections that ask nothing. Exits with 1 after a wrong answer or another error.
"""
import argparse
import asyncio
import json
import random
import time

QUESTIONS = [f"What is {a} + {b}?" for a, b in ((12, 30), (47, 85), (20, 31), (6, 77), (118, 9), (5, 5), (90, 14), (33, 66))] + [
    "Sort these numbers: 9 2 7 4", "How many letters has the word pebble?", "What is Moebius?", "Spell the word stone."]


class Refused(Exception):
    pass


async def ask(args, question, hang_up=False):
    """The text of a streamed answer, and its tokens; None when it hung up."""
    body = json.dumps({"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 120,
                       "stream": True, "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection(args.host, args.port)
    try:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        await writer.drain()
        status = int((await reader.readline()).split()[1])
        if status == 429:
            raise Refused
        if status != 200:
            raise RuntimeError(f"status {status}: {(await reader.read())[-300:]}")
        text, tokens, pieces, leave_after = "", 0, 0, random.randint(0, 20)
        async for line in reader:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"])
            for choice in event["choices"]:
                text += choice["delta"].get("content") or ""
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            pieces += 1
            if hang_up and pieces > leave_after:
                return None, 0
        return text, tokens
    finally:
        writer.close()


def resident_kb(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


async def client(args, expected, until, counts):
    while time.monotonic() < until:
        question = random.choice(QUESTIONS)
        try:
            text, _ = await ask(args, question, random.random() < 0.3)
        except Refused:
            counts["refused"] += 1
            await asyncio.sleep(random.uniform(0.05, 0.5))
            continue
        except Exception as error:
            counts["errors"] += 1
            print(f"# error: {error!r}", flush=True)
            continue
        if text is None:
            counts["hung up"] += 1
        elif text == expected[question]:
            counts["right"] += 1
        else:
            counts["wrong"] += 1
            print(f"# wrong: {question}: {text!r}, alone {expected[question]!r}", flush=True)


async def soak(args, expected):
    counts = dict.fromkeys(["right", "wrong", "hung up", "refused", "errors"], 0)
    begin = time.monotonic()
    until = begin + 60 * args.minutes
    clients = [asyncio.create_task(client(args, expected, until, counts)) for _ in range(args.clients)]
    print("seconds,right,wrong,hung_up,refused,errors,resident_kb")
    while time.monotonic() < until:
        await asyncio.sleep(min(30, max(0.1, until - time.monotonic())))
        print(f"{time.monotonic() - begin:.0f}," + ",".join(str(n) for n in counts.values()) + f",{resident_kb(args.pid)}",
              flush=True)
    await asyncio.gather(*clients)
    return counts["wrong"] + counts["errors"]


async def speed(args, seconds=15):
    tokens, begin = 0, time.monotonic()

    async def one():
        nonlocal tokens
        while time.monotonic() < begin + seconds:
            tokens += (await ask(args, random.choice(QUESTIONS)))[1]

    await asyncio.gather(*(one() for _ in range(8)))
    return tokens / (time.monotonic() - begin)


async def idle(args):
    alone = await speed(args)
    connections = [await asyncio.open_connection(args.host, args.port) for _ in range(args.idle)]
    beside = await speed(args)
    for _, writer in connections:
        writer.close()
    print(f"idle_connections,tokens_s_without,tokens_s_with\n{args.idle},{alone:.1f},{beside:.1f}", flush=True)


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--pid", type=int, required=True, help="of the server")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--idle", type=int, default=0)
    args = parser.parse_args()
    expected = {question: (await ask(args, question))[0] for question in QUESTIONS}
    failures = await soak(args, expected)
    if args.idle:
        await idle(args)
    return 1 if failures else 0


raise SystemExit(asyncio.run(main()))
