#!/usr/bin/env python3
"""Generation in a chat while a folder is being added to its memory, against generation without.

    benches/ingesting.py TAPER MODEL PASSAGES [--rounds N]

PASSAGES has a JSON string a line (passages.py). Each round starts two chats, one after the other; in one of them /memory add is
told of a file with all passages before the same questions are asked. Prints the tokens a second of both, and whether the
file was still being added at the end: otherwise nothing was measured.
"""

import argparse
import json
import os
import pty
import re
import select
import statistics
import tempfile
import time
from pathlib import Path

QUESTIONS = ["Tell me about the sea.", "Tell me about mountains.", "Tell me about rivers."]


class Chat:
    def __init__(self, command, environment):
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)
        self.said = b""

    def until(self, pattern, seconds=120):
        """What was said up to a match, which is taken away."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.said)):
            if not select.select([self.terminal], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"waited for {pattern}: {self.said[-500:]}")
            try:
                self.said += os.read(self.terminal, 65536)
            except OSError:  # Linux says so when the other end is closed
                raise EOFError(f"taper ended: {self.said[-500:]}") from None
        before, self.said = self.said[: found.end()], self.said[found.end() :]
        return before

    def say(self, line):
        os.write(self.terminal, line.encode() + b"\r")

    def end(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)
        os.close(self.terminal)


def speeds(args, folder, passages):
    """Tokens a second of the answers; `passages` is added meanwhile, if it is a path."""
    environment = dict(os.environ, TAPER_DATA_DIR=str(folder), TERM="xterm", COLUMNS="400")
    command = [args.taper, "-m", args.model, "--memory", "m", "--temp", "0", "-n", "128", "--color", "never"]
    chat = Chat(command, environment)
    chat.until(rb">>> |> $")
    if passages:
        chat.say(f"/memory add {passages}")
        chat.until(rb"is being added")
        time.sleep(1)
    found = []
    for question in QUESTIONS:
        chat.say(question)
        said = chat.until(rb"generation [\d.]+ t/s[^\r\n]*\]")
        found.append(float(re.search(rb"generation ([\d.]+) t/s", said)[1]))
        time.sleep(0.5)
    if passages:
        chat.say("/memory")
        assert b"still to be added" in chat.until(rb"memory m: [^\r\n]*"), "it was added before the end"
    chat.end()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("taper")
    parser.add_argument("model")
    parser.add_argument("passages", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "passages.txt"
        lines = [json.loads(line) for line in args.passages.read_text(encoding="utf-8").splitlines()]
        text.write_text("\n\n".join(lines), encoding="utf-8")
        with_it, without = [], []
        for number in range(args.rounds):
            # In turn, so that neither side is always the second on a machine that changes speed.
            for adds in (False, True) if number % 2 == 0 else (True, False):
                found = speeds(args, Path(folder) / f"{number}{adds}", text if adds else None)
                (with_it if adds else without).extend(found)
        ratio = statistics.median(with_it) / statistics.median(without)
        print(f"{statistics.median(without):.1f} tokens/s, while adding {statistics.median(with_it):.1f}: {ratio:.2f}")


if __name__ == "__main__":
    main()
