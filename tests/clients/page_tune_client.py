"""Fine-tunes pebble by clicking through the page of a running `moebius serve` in Chromium, and checks what it shows.

Needs: pip install playwright==1.65.2 and a Chromium (Debian: chromium)
Run:   build/moebius serve --api-key secret --files-dir FOLDER &
       python tests/clients/page_tune_client.py --url http://127.0.0.1:8080 --key secret [--shots FOLDER]

The server must have pebble and a fresh folder. Exits with 1 and a line for every mismatch; --shots keeps pictures.
"""

import argparse
import json
import os
import re
import sys
import tempfile

from playwright.sync_api import sync_playwright
from checks import check, failures
from page_client import Page, check_key, wait_until

EXAMPLES = os.path.join(os.path.dirname(__file__), "../../examples/number-words/train.jsonl")
PROMPT = "Please write the number 179 as words."


def write(folder, name, lines):
    path = os.path.join(folder, name)
    with open(path, "w") as out:
        out.writelines(lines)
    return path


def text_of(p, selector):
    return p.page.locator(selector).inner_text()


def wait_status(p, status, seconds=120):
    wait_until(p.page, f"document.querySelector('#tune-status').textContent.startsWith('{status}')", seconds)


def fill(p, **fields):
    for name, value in fields.items():
        p.page.locator("#tune-" + name).fill(str(value))


def check_opens(p):
    p.page.keyboard.press("Alt+t")
    p.page.locator("#tune-form").wait_for()
    check(p.page.evaluate("document.activeElement.id") == "tune-file", "the file has the focus")
    check(p.page.locator("#log").is_hidden() and p.page.locator("#ask").is_hidden(), "the conversation is away")
    check(p.page.locator("#show-tune").get_attribute("aria-pressed") == "true", "the button is pressed")
    defaults = {name: p.page.locator("#tune-" + name).input_value() for name in ("epochs", "rank", "lr", "batch", "suffix")}
    check(defaults == {"epochs": "3", "rank": "16", "lr": "0.002", "batch": "", "suffix": ""}, f"the defaults: {defaults}")
    wait_until(p.page, "!document.querySelector('#tune-none').hidden")
    p.shot("tune-empty")


def check_bad_file(p, folder, lines):
    """A file of some MB goes up, and its last line is refused by name."""
    bad = write(folder, "bad.jsonl", lines * 10 + ['{"messages": "<b>"}\n'])
    p.page.locator("#tune-file").set_input_files(bad)
    p.page.locator("#tune-start").click()
    p.page.locator("#tune-error").wait_for()
    check(f"line {len(lines) * 10 + 1} of 'bad.jsonl'" in text_of(p, "#tune-error"), f"the error: {text_of(p, '#tune-error')}")
    check(p.page.evaluate("document.querySelector('#tune-upload').value") == 1, "the bar was full")
    check(p.page.locator("#tune-upload").is_hidden() and p.page.locator("#tune-start").is_enabled(), "another try is open")
    p.shot("tune-error")
    p.problems[:] = [problem for problem in p.problems if "400" not in problem]


def check_run(p, path):
    """From the form to the model, by the keyboard."""
    p.page.locator("#tune-file").set_input_files(path)
    fill(p, epochs=2, rank=8, lr=0.005, batch=8, suffix="words")
    p.page.locator("#tune-suffix").press("Enter")
    p.page.locator("#tune-job").wait_for()
    check(p.page.locator("#tune-error").is_hidden(), "no error any more")
    wait_until(p.page, "document.querySelectorAll('#tune-curve polyline.train').length === 1", 60)
    wait_status(p, "running")
    p.shot("tune-running")
    wait_status(p, "succeeded", 200)
    name = text_of(p, "#tune-name")
    check(re.fullmatch(r"ft:pebble:local:words:\w{8}", name), f"the model: {name}")
    points = p.page.evaluate("""() => ['train', 'valid'].map((kind) =>
        document.querySelector(`#tune-curve polyline.${kind}`).getAttribute('points').split(' ').map((xy) => xy.split(',').map(Number)))""")
    check(len(points[0]) == 40, f"a point for each step: {len(points[0])}")
    check(len(points[1]) == 10, f"a point for each evaluation: {len(points[1])}")
    check(all(a[0] < b[0] for a, b in zip(points[0], points[0][1:])), "from left to right")
    check(points[0][-1][1] > points[0][0][1] + 50 and points[1][-1][1] > points[1][0][1] + 50, f"the losses fall: {points}")
    box = p.page.locator("#tune-curve").bounding_box()
    check(all(0 <= x <= box["width"] and 0 <= y <= box["height"] for line in points for x, y in line), "inside the picture")
    label = p.page.locator("#tune-curve").get_attribute("aria-label")
    check(re.fullmatch(r"Training loss from [\d.]+ to [\d.]+ in 40 steps", label), f"told to who cannot see: {label}")
    check("completed" in text_of(p, "#tune-events"), f"the events: {text_of(p, '#tune-events')}")
    check(p.page.locator("#tune-cancel").is_hidden() and p.page.locator("#tune-pause").is_hidden(), "nothing to pause")
    return name


def check_try(p, name):
    p.page.locator("#tune-prompt").fill(PROMPT)
    p.page.keyboard.press("Enter")
    wait_until(p.page, "document.querySelector('#tune-try').getAttribute('aria-busy') === 'true'")
    wait_until(p.page, "document.querySelector('#tune-try').getAttribute('aria-busy') === 'false'", 60)
    base, tuned = text_of(p, "#tune-base-answer"), text_of(p, "#tune-tuned-answer")
    check(text_of(p, "#tune-base") == "pebble" and text_of(p, "#tune-tuned") == name, "both are named")
    check(base and tuned and base != tuned, f"two answers: {base!r} and {tuned!r}")
    check(re.search(r"\d", base) and not re.search(r"\d", tuned), f"words are what was learnt: {base!r}, {tuned!r}")
    boxes = [p.page.locator(f"#tune-{side}-answer").bounding_box() for side in ("base", "tuned")]
    check(boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] < boxes[1]["x"], "side by side")
    p.page.locator("#tune-try").scroll_into_view_if_needed()
    p.shot("tune-try")
    return base, tuned


def check_pause(p, path):
    p.page.locator("#tune-file").set_input_files(path)
    fill(p, epochs=50, batch=1, suffix="long")
    p.page.locator("#tune-start").click()
    wait_until(p.page, "document.querySelector('#tune-name').textContent === 'long'")
    check(p.page.locator("#tune-try").is_hidden(), "nothing to try yet")
    check(p.page.locator("#tune-base-answer").text_content() == "", "the answers of another job are gone")
    wait_until(p.page, "course.size >= 3", 60)
    p.page.locator("#tune-pause").click()
    wait_status(p, "paused")
    steps = p.page.evaluate("course.size")
    check(f"step {steps} of" in text_of(p, "#tune-status"), f"{steps} steps, {text_of(p, '#tune-status')}")
    p.page.locator("#tune-resume").focus()
    p.page.keyboard.press("Enter")
    wait_until(p.page, f"course.size > {steps + 2}", 60)
    check("done at about" in text_of(p, "#tune-status"), f"when it ends: {text_of(p, '#tune-status')}")
    p.page.locator("#tune-cancel").click()
    wait_status(p, "cancelled")
    check(p.page.locator("#tune-job .row button:visible").count() == 0, "nothing more to do to it")


def check_failure(p, path):
    p.page.locator("#tune-file").set_input_files(path)
    fill(p, epochs=3, lr=1000, batch=8, suffix="wild")
    p.page.locator("#tune-start").click()
    wait_until(p.page, "document.querySelector('#tune-name').textContent === 'wild'")
    wait_status(p, "failed")
    check("lower" in text_of(p, "#tune-failure"), f"why, and what to do: {text_of(p, '#tune-failure')}")
    check(os.path.dirname(path) not in text_of(p, "#tune"), "no path of this machine")
    p.shot("tune-failed")


def check_reload(p, name, answers):
    """The jobs are the server's: a page that comes later shows them."""
    p.page.reload()
    wait_until(p.page, "document.querySelector('#model').textContent.includes('context of')")
    p.page.locator("#show-tune").click()
    p.page.locator("#tune-jobs button").first.wait_for()
    labels = p.page.locator("#tune-jobs button").all_inner_texts()
    check(labels == ["wild — failed", "long — cancelled", "words — succeeded"], f"the jobs: {labels}")
    p.page.locator("#tune-jobs button").nth(2).focus()
    p.page.keyboard.press("Enter")
    wait_until(p.page, f"document.querySelector('#tune-name').textContent === '{name}'")
    check(p.page.evaluate("course.size") == 40, "the whole course again")
    p.page.locator("#tune-prompt").fill(PROMPT)
    p.page.get_by_role("button", name="Ask both").click()
    wait_until(p.page, "document.querySelector('#tune-tuned-answer').textContent.length > 0", 60)
    wait_until(p.page, "document.querySelector('#tune-try').getAttribute('aria-busy') === 'false'", 60)
    check((text_of(p, "#tune-base-answer"), text_of(p, "#tune-tuned-answer")) == answers, "the same answers")
    p.page.keyboard.press("Alt+t")
    check(p.page.locator("#tune").is_hidden() and p.page.locator("#ask").is_visible(), "back to the conversation")


def check_without_files(p):
    error = {"error": {"message": "start it with --files-dir <b>", "code": "files_disabled"}}
    p.page.route("**/v1/fine_tuning/jobs**", lambda route: route.fulfill(status=403, body=json.dumps(error)))
    p.page.reload()
    wait_until(p.page, "document.querySelector('#model').textContent.includes('context of')")
    p.page.keyboard.press("Alt+t")
    p.page.locator("#tune-error").wait_for()
    check(text_of(p, "#tune-error") == error["error"]["message"], "it says why there is nothing")
    check(p.page.locator("#tune-form").is_hidden(), "and offers nothing")
    p.page.unroute("**/v1/fine_tuning/jobs**")
    p.problems[:] = [problem for problem in p.problems if "403" not in problem]


def check_phone(browser, url, key, shots):
    context = browser.new_context(viewport={"width": 390, "height": 780}, color_scheme="dark", has_touch=True)
    p = Page(context.new_page(), shots)
    p.page.goto(url)
    check_key(p, key)
    p.page.locator("#show-tune").tap()
    p.page.locator("#tune-jobs button").nth(2).tap()
    wait_until(p.page, "document.querySelectorAll('#tune-curve polyline').length === 2")
    p.page.locator("#tune-prompt").fill(PROMPT)
    p.page.get_by_role("button", name="Ask both").tap()
    wait_until(p.page, "document.querySelector('#tune-tuned-answer').textContent.length > 0", 60)
    check(p.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than a phone")
    check(p.page.evaluate("document.querySelector('#tune').scrollWidth <= innerWidth"), "nor in the view")
    base, tuned = (p.page.locator(f"#tune-{side}-answer").bounding_box() for side in ("base", "tuned"))
    check(tuned["y"] > base["y"], "one below the other")
    p.shot("tune-phone-try")
    p.page.locator("#tune-curve").scroll_into_view_if_needed()
    p.shot("tune-phone")
    check(not p.problems, f"problems on a phone: {p.problems}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", required=True, help="one of the server's keys")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", default="", help="folder for pictures")
    args = parser.parse_args()
    with open(EXAMPLES) as data:
        lines = data.readlines()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        p = Page(browser.new_context(viewport={"width": 1280, "height": 800}).new_page(), args.shots)
        p.page.goto(args.url)
        check_key(p, args.key)
        path = write(folder, "words.jsonl", lines[:168])
        check_opens(p)
        check_bad_file(p, folder, lines)
        name = check_run(p, path)
        answers = check_try(p, name)
        check_pause(p, path)
        check_failure(p, path)
        check_reload(p, name, answers)
        check_without_files(p)
        check(not p.problems, f"problems: {p.problems}")
        check_phone(browser, args.url, args.key, args.shots)
        browser.close()
    print(f"{len(failures)} mismatches")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
