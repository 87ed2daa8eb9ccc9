"""Many streaming clients at once, and the median time between two tokens of each while all of them are answered.

    python bench/serving_clients.py PORT CLIENTS TOKENS VOCAB

The server is started with --parallel CLIENTS; beside it stands `bench_scheduler`, whose prompts these are.
"""
import http.client
import json
import statistics
import sys
import threading
import time

PROMPT_TOKENS = 32


def client(port, prompt, tokens, times):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True, "logprobs": 0}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200, response.read()
    while line := response.readline():
        if line.startswith(b"data: {"):
            times.append(time.perf_counter())


def main():
    port, clients, tokens, vocab = map(int, sys.argv[1:])
    times = [[] for _ in range(clients)]
    threads = []
    for i, own in enumerate(times):
        prompt = [(k * 31 + i) % (vocab // 2) for k in range(PROMPT_TOKENS)]
        threads.append(threading.Thread(target=client, args=(port, prompt, tokens, own)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    begin, end = max(t[0] for t in times), min(t[-1] for t in times)
    gaps = [b - a for t in times for a, b in zip(t, t[1:]) if a >= begin and b <= end]
    print(f"{clients} clients, ms between tokens: median {1e3 * statistics.median(gaps):.2f}, mean {1e3 * statistics.mean(gaps):.2f}")


main()
