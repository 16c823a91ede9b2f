"""A team: processes, one a rank, that all do what a line on their stdin says and answer in a line of JSON.

They stay between two lines, so that contenders can take turns (turns.py) without starting anew each time.
Their first answer says that they are ready; what else they print is passed over.
"""

import json
import subprocess

from bench.results import REPOSITORY


class Team:
    """One process for each of `commands`, with the environment that belongs to it."""

    def __init__(self, name, commands, environments):
        self.name, self.ranks = name, []
        pipes = {"text": True, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        for command, environment in zip(commands, environments):
            self.ranks.append(subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes))

    def starts(self):
        """Whether it does; waits for it."""
        try:
            self.hear()
        except EOFError as error:
            print(f"{error}: it is left out")
            self.close()
            return False
        return True

    def turn(self, line):
        """The answers of all ranks, in order, to a line."""
        for rank in self.ranks:
            rank.stdin.write(f"{line}\n")
            rank.stdin.flush()
        return self.hear()

    def hear(self):
        """One answer of each rank. Raises: EOFError if one has ended."""
        answers = []
        for rank in self.ranks:
            line = next((line for line in rank.stdout if line.startswith("{")), None)
            if line is None:
                raise EOFError(f"{self.name}: a rank has ended")
            answers.append(json.loads(line))
        return answers

    def close(self):
        for rank in self.ranks:
            rank.kill()
            rank.wait()
