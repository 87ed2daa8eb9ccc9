"""Clicks through the page of a running `moebius serve` in Chromium and checks what it shows.

Needs: pip install playwright==1.65.2 and a Chromium (Debian: chromium)
Run:   build/moebius serve --api-key secret &
       python tests/clients/page_client.py --url http://127.0.0.1:8080 --key secret [--shots FOLDER]

The server must have pebble. Exits with 1 and a line for every mismatch; --shots keeps pictures to look at.
"""

import argparse
import json
import os
import re
import sys
import time

from playwright.sync_api import sync_playwright
from checks import check, failures


HOSTILE = """# <img src=x onerror=alert(1)>
<script>window.broken = 1</script> **bold** `code <b>` [bad](javascript:alert(1)) [good](https://example.org/a)
- one
  - inner <svg onload=alert(1)>
1. two

| a | b |
|---|---|
| <i>x</i> | `y` |

```html"><script>alert(1)</script>
<b>not bold</b>
```
> quote"""


def wait_until(page, expression, seconds=20):
    """Until the expression is true, asked from here: the page's policy lets nothing in it evaluate a string later on."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        if time.monotonic() > deadline:
            raise TimeoutError(expression)
        page.wait_for_timeout(50)


class Page:
    def __init__(self, page, shots):
        self.page, self.shots = page, shots
        self.problems = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))
        page.on("dialog", lambda dialog: self.problems.append("a dialog"))

    def shot(self, name):
        if self.shots:
            self.page.screenshot(path=os.path.join(self.shots, name + ".png"))

    def turns(self, role):
        return self.page.locator(f".turn.{role}")

    def ask(self, text):
        self.page.locator("#input").fill(text)
        self.page.keyboard.press("Enter")

    def wait(self):
        self.page.locator("#send").wait_for(state="visible", timeout=60_000)


def check_key(p, key):
    p.page.locator("#key[open]").wait_for()
    p.shot("key")
    p.page.locator("#key-value").fill("wrong")
    p.page.keyboard.press("Enter")
    p.page.locator("#key[open]").wait_for()
    p.page.locator("#key-value").fill(key)
    p.page.keyboard.press("Enter")
    wait_until(p.page, "document.querySelector('#model').textContent.includes('context of')")
    p.problems.clear()  # Chromium reports every answer with status 401


def check_chat(p):
    p.ask("What is 12 + 30?")
    p.wait()
    check("42" in p.turns("assistant").last.inner_text(), f"an answer: {p.turns('assistant').last.inner_text()}")
    check("tok/s" in p.turns("assistant").last.inner_text(), "tokens a second")
    p.shot("chat")
    p.ask("And what is 3 + 4?")
    p.wait()
    check(p.turns("user").count() == 2 and p.turns("assistant").count() == 2, "two turns")
    check("in the cache" in p.turns("assistant").last.inner_text(), "the second turn says what was in the cache")
    first = p.turns("assistant").last.locator(".text").inner_text()
    p.page.get_by_role("button", name="Regenerate").click()
    p.wait()
    check(p.turns("assistant").count() == 2, "regenerating keeps two turns")
    check(p.turns("assistant").last.locator(".text").inner_text() == first, "at temperature 0 the same again")
    p.turns("user").first.get_by_role("button", name="Edit").click()
    area = p.page.get_by_label("Edit message")
    check(area.input_value() == "What is 12 + 30?", "the text to edit")
    area.fill("What is 20 + 30?")
    p.page.keyboard.press("Enter")
    p.wait()
    check(p.turns("user").count() == 1, "an edit cuts what came after it")
    check("50" in p.turns("assistant").last.inner_text(), f"the edited answer: {p.turns('assistant').last.inner_text()}")


def check_settings(p):
    p.page.keyboard.press("Alt+s")
    p.page.locator("#set-temperature").fill("0")
    p.page.locator("#set-max_tokens").fill("60")
    p.page.locator("#set-max_tokens").blur()
    p.page.locator("#system").fill("Be brief.")
    p.page.locator("#system").blur()
    p.shot("settings")
    with p.page.expect_request("**/v1/chat/completions") as request:
        p.ask("Hello")
    body = json.loads(request.value.post_data)
    p.wait()
    check(body["temperature"] == 0 and body["max_tokens"] == 60, f"the settings are sent: {body}")
    check(body["messages"][0] == {"role": "system", "content": "Be brief."}, f"the system prompt is sent: {body['messages'][0]}")
    p.page.keyboard.press("Alt+s")
    check(p.page.locator("#settings").is_hidden(), "the settings close")
    p.page.keyboard.press("Alt+n")


def check_conversations(p):
    before = p.page.locator("#list li").count()
    p.page.keyboard.press("Alt+n")
    check(p.turns("user").count() == 0, "a new conversation is empty")
    p.ask("Hello")
    p.wait()
    check(p.page.locator("#list li").count() == before + 1, "one conversation more")
    p.page.reload()
    p.page.locator(".turn.user").first.wait_for()
    check(p.page.locator("#list li").count() == before + 1, "conversations outlast a reload")
    p.page.locator("#list li button").nth(2).click()
    wait_until(p.page, "document.querySelector('.turn.user .text').textContent.includes('20 + 30')")
    p.page.locator("#list li").first.get_by_role("button", name=re.compile("Delete")).click()
    check(p.page.locator("#list li").count() == before, "a conversation is deleted")


def check_stop(p):
    """The stop button ends an answer that goes on."""
    p.page.evaluate("""() => { settings.max_tokens = '1500'; settings.temperature = '1.9'; }""")
    p.page.route("**/v1/chat/completions", lambda route: route.continue_(
        post_data=json.dumps({**json.loads(route.request.post_data), "ignore_eos": True})))
    p.ask("Tell me a story")
    p.page.locator(".turn.assistant .text p").last.wait_for()
    p.page.locator("#stop").click()
    p.wait()
    p.page.get_by_text("stopped").wait_for()
    p.page.unroute("**/v1/chat/completions")
    p.page.evaluate("""() => { settings.max_tokens = '60'; settings.temperature = '0'; }""")


def check_hostile(p):
    """What a model writes becomes no markup of the page; thinking is folded; an error is shown."""
    pieces = [{"delta": {"role": "assistant", "reasoning_content": "hm <b>"}}]
    pieces += [{"delta": {"content": HOSTILE[i : i + 3]}} for i in range(0, len(HOSTILE), 3)]
    chunks = [{"choices": [{"index": 0, "finish_reason": None, **piece}]} for piece in pieces]
    chunks.append({"choices": [], "usage": {"completion_tokens": 5, "prompt_tokens": 3}})
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    p.page.route("**/v1/chat/completions", lambda route: route.fulfill(status=200, content_type="text/event-stream", body=stream))
    p.page.keyboard.press("Alt+n")
    p.ask("<b>me</b>")
    p.wait()
    check(p.turns("user").last.locator("b").count() == 0, "what a person writes is text")
    turn = p.turns("assistant").last
    for tag in ("img", "script", "svg", "i", "b"):
        check(turn.locator(tag).count() == 0, f"an element {tag} of the model's")
    check(p.page.evaluate("window.broken") is None, "a script of the model's ran")
    check([a.get_attribute("href") for a in turn.locator("a").all()] == ["https://example.org/a"], "links go to http alone")
    check(turn.locator("strong").inner_text() == "bold", "bold")
    check(turn.locator("pre code").inner_text() == "<b>not bold</b>", f"code: {turn.locator('pre').all_inner_texts()}")
    check(turn.locator("td").all_inner_texts() == ["<i>x</i>", "y"], f"a table: {turn.locator('td').all_inner_texts()}")
    check(turn.locator("ul > li").count() == 2 and turn.locator("ol > li").count() == 1, "a list of each kind")
    check(turn.locator("li li").count() == 1 and turn.locator("blockquote").count() == 1, "lists and a quote")
    check(not turn.locator("details").evaluate("node => node.open"), "thinking is folded")
    turn.locator("summary").click()
    p.shot("markdown")
    box, log = p.page.locator("#ask").bounding_box(), p.page.locator("#log").bounding_box()
    check(box["x"] == log["x"] and box["width"] == log["width"] and log["x"] + log["width"] == 1280, "the places of log and input")
    p.page.unroute("**/v1/chat/completions")
    p.page.route("**/v1/chat/completions", lambda route: route.fulfill(status=429, body=json.dumps({"error": {"message": "too many <b>"}})))
    p.ask("again")
    p.wait()
    check(p.turns("assistant").last.locator(".error").inner_text() == "too many <b>", "an error is shown")
    p.page.unroute("**/v1/chat/completions")
    p.problems[:] = [problem for problem in p.problems if "429" not in problem]


def check_experts(p):
    p.page.keyboard.press("Alt+e")
    p.page.locator("#figures dd").first.wait_for()
    p.page.keyboard.press("Alt+n")
    p.ask("What is 47 + 85?")
    p.wait()
    wait_until(p.page, "Number(document.querySelectorAll('#figures dd')[1].textContent) > 0")
    painted = p.page.evaluate("""() => { const map = document.getElementById('map'), pixels = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
        return new Set(Array.from({length: pixels.length / 4}, (_, i) => pixels[4 * i + 3])).size; }""")
    check(painted > 3, f"{painted} strengths of colour in the map")
    p.page.locator("#map").hover(position={"x": 5, "y": 5})
    check("expert 0" in p.page.locator("#spot").inner_text(), f"the spot: {p.page.locator('#spot').inner_text()}")
    p.shot("experts")
    p.page.keyboard.press("Alt+e")


def check_phone(browser, url, key, shots):
    context = browser.new_context(viewport={"width": 390, "height": 780}, color_scheme="dark", has_touch=True)
    p = Page(context.new_page(), shots)
    p.page.goto(url)
    check_key(p, key)
    p.ask("What is 1 + 2?")
    p.wait()
    check(p.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than a phone")
    p.shot("phone")
    p.page.locator("#menu").tap()
    check(p.page.locator("#list li").count() == 1, "the drawer has the conversation")
    p.shot("phone-drawer")
    p.page.locator("#list li button").first.tap()
    check(p.page.locator("#nav").is_hidden(), "the drawer closes")
    check(not p.problems, f"problems on a phone: {p.problems}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", required=True, help="one of the server's keys")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", default="", help="folder for pictures")
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        p = Page(browser.new_context(viewport={"width": 1280, "height": 800}).new_page(), args.shots)
        p.page.goto(args.url)
        check_key(p, args.key)
        check_settings(p)
        check_chat(p)
        check_conversations(p)
        check_stop(p)
        check_hostile(p)
        check_experts(p)
        check(not p.problems, f"problems: {p.problems}")
        check_phone(browser, args.url, args.key, args.shots)
        browser.close()
    print(f"{len(failures)} mismatches")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
