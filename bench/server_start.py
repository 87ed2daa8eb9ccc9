"""From a server's start to its health and its first token, with the weights' files in the page cache.

    python3 bench/server_start.py build/moebius serve -m MODEL [--tokens 512] [--times 3]

Starts the command with --port, asks for a prompt of so many token ids (no two times the same), and 16 more tokens, and prints
the medians as CSV: seconds to health, seconds from health to the first token, tokens per second after it, resident memory.
"""
import http.client
import json
import random
import statistics
import subprocess
import sys
import time

PORT = 8157


def healthy():
    try:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=1)
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False


def resident_gb(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1e6


def once(command, tokens):
    start = time.perf_counter()
    server = subprocess.Popen([*command, "--port", str(PORT)], stderr=subprocess.DEVNULL)
    try:
        while not healthy():
            time.sleep(0.01)
        up = time.perf_counter()
        prompt = [random.randrange(1000, 20000) for _ in range(tokens)]
        body = {"prompt": prompt, "max_tokens": 17, "temperature": 0, "ignore_eos": True, "stream": True, "logprobs": 0}
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=600)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        times = []
        while line := response.readline():
            if line.startswith(b'data: {') and b'"logprobs":{' in line:
                times.append(time.perf_counter())
        rate = (len(times) - 1) / (times[-1] - times[0])
        return up - start, times[0] - up, rate, resident_gb(server.pid)
    finally:
        server.terminate()
        server.wait()


def main():
    command, options = sys.argv[1:], {"--tokens": 512, "--times": 3}
    for name in options:
        if name in command:
            at = command.index(name)
            options[name] = int(command[at + 1])
            del command[at : at + 2]
    runs = [once(command, options["--tokens"]) for _ in range(options["--times"])]
    print("prompt_tokens,healthy_s,first_token_s,decode_tokens_per_s,resident_gb")
    print(options["--tokens"], *(f"{statistics.median(column):.3g}" for column in zip(*runs)), sep=",")


main()
