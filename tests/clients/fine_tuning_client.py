"""Fine-tunes pebble on a running `moebius serve` through OpenAI's own client and checks what comes back.

Needs: pip install openai==3.54.0
Run:   build/moebius serve --api-key secret --files-dir FOLDER &
       python tests/clients/fine_tuning_client.py --url http://127.0.0.1:8080/v1 --key secret

Uploads examples/number-words, trains a few steps, follows the events, pauses and resumes, and asks the model that comes
of it. Exits with 1 and a line for every mismatch.
"""

import argparse
import io
import json
import os
import sys
import time

import openai
from openai.types import FileDeleted, FileObject
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from checks import check, failures, valid

EXAMPLES = os.path.join(os.path.dirname(__file__), "../../examples/number-words")
ENDED = ("succeeded", "failed", "cancelled")


def refused(expected, code, call, what):
    try:
        call()
    except expected as error:
        check(error.code == code, f"{what}: code {error.code}, not {code}")
    else:
        check(False, f"{what}: not refused")


def check_files(client):
    """Uploads, lists, reads and deletes; returns the files for training and for validation."""
    with open(os.path.join(EXAMPLES, "train.jsonl"), "rb") as data:
        lines = data.read().splitlines(keepends=True)
    train = client.files.create(file=("train.jsonl", b"".join(lines[:160])), purpose="fine-tune")
    valid(FileObject, train, "a file")
    check(train.filename == "train.jsonl" and train.bytes == sum(map(len, lines[:160])), f"the file is {train}")
    with open(os.path.join(EXAMPLES, "held_out.jsonl"), "rb") as data:
        held_out = client.files.create(
            file=data, purpose="fine-tune", expires_after={"anchor": "created_at", "seconds": 3600}
        )
    check(held_out.expires_at == held_out.created_at + 3600, f"it expires: {held_out}")
    extra = client.files.create(file=("notes.bin", os.urandom(70_000)), purpose="user_data")
    listed = client.files.list()
    check([f.id for f in listed.data[:3]] == [extra.id, held_out.id, train.id], "the newest comes first")
    check([f.id for f in client.files.list(limit=1, order="desc")][:3] == [extra.id, held_out.id, train.id], "page by page")
    check(all(f.purpose == "user_data" for f in client.files.list(purpose="user_data")), "by purpose")
    valid(FileObject, client.files.retrieve(train.id), "a file by id")
    check(client.files.content(train.id).read() == b"".join(lines[:160]), "the content comes back")
    gone = client.files.delete(extra.id)
    valid(FileDeleted, gone, "a deleted file")
    refused(openai.NotFoundError, "file_not_found", lambda: client.files.retrieve(extra.id), "a deleted file")
    bad = io.BytesIO(lines[0] + lines[1] + b'{"messages": "?"}\n')
    try:
        client.files.create(file=("bad.jsonl", bad), purpose="fine-tune")
        check(False, "a bad file was taken")
    except openai.BadRequestError as error:
        check("line 3 of 'bad.jsonl'" in error.message, f"the bad line is named: {error.message}")
    return train.id, held_out.id


def follow(client, job, until=ENDED):
    """Prints events as they come, until the job's status is one of these; returns the job and all its events."""
    seen, told = set(), []
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        now = client.fine_tuning.jobs.retrieve(job)
        fresh = []
        for event in client.fine_tuning.jobs.list_events(job, limit=100):  # the client turns the pages
            if event.id in seen:
                break
            fresh.append(event)
        for event in reversed(fresh):
            valid(FineTuningJobEvent, event, "an event")
            seen.add(event.id)
            told.append(event)
            print(f"  {event.message}")
        if now.status in until:
            return now, told
        time.sleep(0.2)
    raise TimeoutError(f"the job is still {now.status}")


def check_job(client, model, train, held_out):
    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=train,
        validation_file=held_out,
        suffix="number-words",
        seed=3,
        metadata={"purpose": "test"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": "auto"}}},
        extra_body={"x_lora": {"rank": 8, "lr": 5e-3}},
    )  # fmt: skip
    valid(FineTuningJob, job, "a job")
    check(job.status in ("validating_files", "queued", "running"), f"it begins as {job.status}")
    check(job.seed == 3 and job.metadata == {"purpose": "test"}, f"what was asked for: {job}")
    check(job.method.supervised.hyperparameters.n_epochs == 1, f"its epochs: {job.method}")
    job, events = follow(client, job.id)
    valid(FineTuningJob, job, "a finished job")
    check(job.status == "succeeded", f"it ended as {job.status}: {job.error}")
    check(job.fine_tuned_model.startswith(f"ft:{model}:") and ":number-words:" in job.fine_tuned_model, job.fine_tuned_model)
    check(job.trained_tokens > 0 and job.finished_at >= job.created_at, f"its end: {job}")
    steps = [event.data["step"] for event in events if event.type == "metrics"]
    check(steps == list(range(1, 21)), f"160 examples by 8 are 20 steps, told once each: {steps}")
    metrics = [event.data for event in events if event.type == "metrics"]
    check(metrics[-1]["train_loss"] < metrics[0]["train_loss"], "the loss falls")
    check(0 <= metrics[0]["train_mean_token_accuracy"] <= 1, "the accuracy")
    check(metrics[-1]["valid_loss"] > 0, "the last step is evaluated")
    csv = client.files.content(job.result_files[0]).read().decode().splitlines()
    check(csv[0].startswith("step,train_loss,train_accuracy,valid_loss") and len(csv) == 21, f"the results: {csv[:2]}")
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    for checkpoint in checkpoints:
        valid(FineTuningJobCheckpoint, checkpoint, "a checkpoint")
    check(checkpoints[0].step_number == 20 and checkpoints[0].metrics.full_valid_loss > 0, f"the last: {checkpoints[0]}")
    check(job.id in [j.id for j in client.fine_tuning.jobs.list(limit=1)], "the list has it")
    check([j.id for j in client.fine_tuning.jobs.list(metadata={"purpose": "test"}).data][:1] == [job.id], "by metadata")
    refused(openai.BadRequestError, "invalid_job_status", lambda: client.fine_tuning.jobs.cancel(job.id), "its cancelling")
    return job, checkpoints


def check_pause(client, model, train):
    """A long job is paused, goes on where it was, and is cancelled."""
    job = client.fine_tuning.jobs.create(model=model, training_file=train, extra_body={"x_lora": {"steps": 5000, "rank": 2}}).id
    while client.fine_tuning.jobs.retrieve(job).model_extra["x_lora"]["steps_done"] < 2:
        time.sleep(0.1)
    client.fine_tuning.jobs.pause(job)
    paused, _ = follow(client, job, until=("paused",))
    done = paused.model_extra["x_lora"]["steps_done"]
    check(done >= 2, f"paused after {done} steps")
    client.fine_tuning.jobs.resume(job)
    deadline = time.monotonic() + 60
    while client.fine_tuning.jobs.retrieve(job).model_extra["x_lora"]["steps_done"] <= done and time.monotonic() < deadline:
        time.sleep(0.1)
    cancelled = client.fine_tuning.jobs.cancel(job)
    valid(FineTuningJob, cancelled, "a cancelled job")
    check(cancelled.status == "cancelled" and cancelled.model_extra["x_lora"]["steps_done"] > done, f"it went on: {cancelled}")


def check_refusals(client, model, train):
    jobs = client.fine_tuning.jobs
    refused(openai.NotFoundError, "model_not_found", lambda: jobs.create(model="gpt-4o-mini", training_file=train), "another model")
    refused(openai.NotFoundError, "file_not_found", lambda: jobs.create(model=model, training_file="file-none"), "no file")
    refused(openai.BadRequestError, "unsupported_value", lambda: jobs.create(model=model, training_file=train, method={"type": "dpo"}), "dpo")
    refused(openai.NotFoundError, "fine_tuning_job_not_found", lambda: jobs.retrieve("ftjob-none"), "no job")


def answer(client, model):
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Please write the number 179 as words."}], temperature=0, max_tokens=40
    )
    return reply.model, reply.choices[0].message.content


def check_model(client, base, job, checkpoints):
    """The model answers at once, otherwise than its base; so do its checkpoints."""
    tuned = job.fine_tuned_model
    listed = {m.id: m for m in client.models.list()}
    check(tuned in listed and base in listed, f"the models are {list(listed)}")
    named, text = answer(client, tuned)
    check(named == tuned, f"the answer says {named}")
    check(text != answer(client, base)[1], f"the base says the same: {text}")
    for checkpoint in checkpoints:
        answer(client, checkpoint.fine_tuned_model_checkpoint)
    print(json.dumps({"base": answer(client, base)[1], "tuned": text}, indent=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--key", default="", help="one of the server's keys; empty: it needs none")
    args = parser.parse_args()
    client = openai.OpenAI(base_url=args.url, api_key=args.key or "none", max_retries=0)
    model = client.models.list().data[0].id
    train, held_out = check_files(client)
    check_refusals(client, model, train)
    check_pause(client, model, train)
    job, checkpoints = check_job(client, model, train, held_out)
    check_model(client, model, job, checkpoints)
    print(f"{len(failures)} mismatches")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
