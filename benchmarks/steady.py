"""Memory of the embedded service while it answers: the summed PSS of its process tree, from idle and from warm.

    python -m benchmarks.steady [--answers 2000] [--models DIR] [--most-percent 2] [--json FILE]

Starts a service in an empty data dir, ingests a folder of rules and prose that it writes itself, and asks through the
REST API: values that one line says, and how things are done, which the model answers as JSON from prose. The first WARM
questions load what answers need; the tree weighed after them is "warm". Ends with 1 when it weighs over
`--most-percent` more after all answers than warm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from cli.client import Client
from cli.service_process import ServiceProcess
from ingest.sandbox import IDLE_S

WARM = 100
EVERY = 200
SETTLE_S = 5.0
DEPARTMENTS = ("Accounting", "Purchasing", "Personnel", "Sales", "Support", "Logistics")
PROSE = (
    "When goods come back, {name} first looks at the delivery note and writes down in what state the parcel arrived. "
    "Then the customer is told within two days whether the return is accepted. A return is accepted if the goods are "
    "unused, and otherwise the head of {name} decides after talking to whoever sold them. Money goes back the way it "
    "came, which takes a week with cards and somewhat longer with transfers. Whoever has doubts asks {name} before "
    "anything is sent, because a parcel that was refused comes back twice and is paid for twice. "
)


def write_folder(folder: Path) -> None:
    """A few dozen documents: tables of values, and pages of prose."""
    for number, name in enumerate(DEPARTMENTS):
        rows = "\n".join(f"| {item} | {1000 * (number + 1) + 10 * n}円 |" for n, item in enumerate(ITEMS))
        (folder / f"rates-{number}.md").write_text(f"# {name} 料金表\n\n| 項目 | 金額 |\n|---|---|\n{rows}\n", "utf-8")
        parts = "\n\n".join(f"## Case {n}\n\n{PROSE.format(name=f'{name} {n}')}" for n in range(6))
        (folder / f"returns-{number}.md").write_text(f"# Returns at {name}\n\n{parts}\n", "utf-8")


FORM = {"type": "json_object"}
ITEMS = ("日当", "宿泊費", "交通費", "登録料", "年会費", "送料")


def question(number: int) -> str:
    """The question of a number; no two are the same text, so that no cache answers."""
    name, item = DEPARTMENTS[number % len(DEPARTMENTS)], ITEMS[number // 2 % len(ITEMS)]
    if number % 2:
        return f"{name}の{item}はいくらですか。（照会{number}）"
    return f"What does {name} {number % 6} look at first when goods come back? ({number})"


def weigh(service: ServiceProcess) -> float:
    """Summed PSS of the process tree, in MiB."""
    total = 0
    for process in service.family():
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue  # it has ended since it was listed
    return total / 2**20


def run(models: Path | None, answers: int) -> dict[str, object]:
    """Ask, weigh and print."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir, documents = Path(folder) / "data", Path(folder) / "documents"
        documents.mkdir()
        data_dir.mkdir()
        if models is not None:
            (data_dir / "models").symlink_to(models.resolve())
        write_folder(documents)
        service = ServiceProcess(data_dir)
        service.start()
        try:
            with service.client() as client:
                time.sleep(SETTLE_S)
                fresh = weigh(service)
                _ingest(client, documents)
                time.sleep(IDLE_S + SETTLE_S)  # until what extracted has ended
                idle = weigh(service)
                print(f"started {fresh:.0f} MiB, idle with documents {idle:.0f} MiB", flush=True)
                kinds = Counter(_ask(client, number) for number in range(WARM))
                warm = weigh(service)
                print(f"warm after {WARM} answers: {warm:.0f} MiB  {dict(kinds)}", flush=True)
                points = _answers(service, client, answers, warm)
                time.sleep(SETTLE_S)
                last = weigh(service)
        finally:
            service.stop()
    grown = 100 * (statistics.median([last, *points[-2:]]) / warm - 1)
    print(f"after {answers} more: {last:.0f} MiB, {grown:+.1f} % of warm, {100 * (last / idle - 1):+.0f} % of idle")
    return {
        "answers": answers, "fresh_mib": fresh, "idle_mib": idle, "warm_mib": warm, "points_mib": points,
        "last_mib": last, "grown_percent": grown, "kinds": dict(kinds),
    }  # fmt: skip


def _answers(service: ServiceProcess, client: Client, answers: int, warm: float) -> list[float]:
    points: list[float] = []
    began = time.monotonic()
    for done in range(1, answers + 1):
        _ask(client, WARM + done)
        if done % EVERY == 0 or done == answers:
            points.append(weigh(service))
            rate = done / (time.monotonic() - began)
            print(f"{done:>5} answers {points[-1]:>6.0f} MiB {100 * (points[-1] / warm - 1):+5.1f} %  {rate:.1f}/s")
            sys.stdout.flush()
    return points


def _ingest(client: Client, documents: Path) -> None:
    for path in sorted(documents.iterdir()):
        body = {"text": path.read_text("utf-8"), "filename": path.name}
        job = client.post("/v1/documents", body)["items"][0]["job"]
        while job["status"] in {"queued", "running"}:
            time.sleep(0.1)
            job = client.get(f"/v1/jobs/{job['id']}")
        if job["status"] != "succeeded":
            raise RuntimeError(f"{path.name}: {job['error']}")


def _ask(client: Client, number: int) -> str:
    """Ask; how it was answered."""
    body = {"question": question(number), "max_tokens": 24, "temperature": 0.0 if number % 4 else 0.7}
    if number % 2 == 0:
        body["response_format"] = FORM  # whose words are the model's, however good a line there is
    answer = client.post("/v1/ask", body)
    if answer["refused"]:
        return f"refused: {answer['refusal_reason']}"
    return "model" if answer["usage"]["completion_tokens"] else "lines"


def main() -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=2000, help="after the warm ones")
    parser.add_argument("--models", type=Path, help="folder of prepared models, kept between runs")
    parser.add_argument("--most-percent", type=float, default=2.0, help="growth allowed from warm")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    found = run(arguments.models, arguments.answers)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if float(str(found["grown_percent"])) <= arguments.most_percent else 1


if __name__ == "__main__":
    sys.exit(main())
