"""What both clients' checks share: where the broker is, and one line for each check."""
import os
import sys
import time
import traceback

BROKER = os.environ["BROKER"]
SECURE = os.environ["SECURE"] == "1"
CA = os.environ["CA"]
USER, PASSWORD = os.environ["SUITE_USER"], os.environ["SUITE_PASSWORD"]
PREFIX = os.environ["PREFIX"]
failed = 0


def topic_of(client):
    return f"{client}-{'secure' if SECURE else 'plain'}-{int(time.time() * 1000)}"


def check(name, f):
    """Runs f, which raises when something is not as it should be. Clients' calls have limits of their own."""
    global failed
    try:
        f()
        print(f"PASS {PREFIX}/{name}", flush=True)
    except Exception as e:
        failed += 1
        print(f"FAIL {PREFIX}/{name}", flush=True)
        print(f"{PREFIX}/{name}: {e}", file=sys.stderr)
        traceback.print_exc(limit=3)


def equal(what, got, want):
    if got != want:
        raise AssertionError(f"{what}: got {str(got)[:300]}, want {str(want)[:300]}")


def eventually(f, seconds=20):
    """Repeats f until it raises nothing: for what a broker may learn a moment later."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return f()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def finish():
    sys.exit(1 if failed else 0)
