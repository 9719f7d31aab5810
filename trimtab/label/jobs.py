"""A connected model answers an imported file's prompts in the background, and what it answered becomes tasks, batch after batch."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from trimtab.common.errors import UserError
from trimtab.label.projects import Project
from trimtab.label.store import Store
from trimtab.label.tasks import import_records
from trimtab.records import Comparison, Completion, Prompt

AT_ONCE = 8  # prompts between two imports


class Answerer(Protocol):
    """A model that answers: connected by the command line, so that the app itself loads none."""

    def answers(self, prompts: Sequence[Prompt], k: int, seed: int) -> list[list[Completion]]:
        """``k`` answers to each prompt."""


@dataclass
class Job:
    """One file's prompts on their way."""

    project: str
    model: str
    prompts: int
    done: int = 0
    added: int = 0
    left_out: int = 0  # all their answers read the same, or the task was there already
    problem: str = ""
    ended: bool = False


@dataclass
class Jobs:
    """All jobs since the start; one runs at a time."""

    all: list[Job] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def begin(
        self, store: Store, project: Project, name: str, model: Answerer, prompts: Sequence[Prompt], k: int
    ) -> Job:
        """Starts sampling ``k`` answers to each prompt."""
        job = Job(project.name, name, len(prompts))
        self.all.append(job)
        threading.Thread(target=self._run, args=(job, store, project, model, list(prompts), k), daemon=True).start()
        return job

    def of(self, project: str) -> list[Job]:
        """The project's jobs, latest first."""
        return [job for job in reversed(self.all) if job.project == project][:5]

    def _run(
        self, job: Job, store: Store, project: Project, model: Answerer, prompts: Sequence[Prompt], k: int
    ) -> None:
        seed = time.time_ns() % 2**31
        with self._turn:
            try:
                for start in range(0, len(prompts), AT_ONCE):
                    part = prompts[start : start + AT_ONCE]
                    answered = model.answers(part, k, seed)
                    # called as it was connected: two folders may have the same name
                    named = [tuple(replace(answer, model=job.model) for answer in answers) for answers in answered]
                    made = [Comparison(p, a, (None,) * k) for p, a in zip(part, named, strict=True)]
                    with store.write() as connection:
                        for one in made:  # each by itself: one that cannot be a task keeps no other one out
                            done = import_records(connection, project, [(one.prompt.id, one)])
                            job.added += done.added
                            job.left_out += done.alike + done.repeated
                            job.problem = job.problem or "".join(done.problems)
                    job.done += len(part)
            except UserError as error:
                job.problem = str(error)
            except Exception as error:  # the page has to say that it ended, whatever ended it
                job.problem = f"the model failed: {error}"
            job.ended = True
